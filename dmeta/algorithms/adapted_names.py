"""Which parameters the inner loop moves: what ``algorithm.adapt`` stands for."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

Adapt: TypeAlias = Literal["all", "head", "body"] | tuple[str, ...]
"""Or patterns of names."""


def adapted_names(adapt: Adapt, names: tuple[str, ...], head: Collection[str]) -> tuple[str, ...]:
    """The names that `adapt` stands for, in their order.

    Args:
        adapt: ``all``, ``head``, ``body`` (the others) or patterns.
        names: of everything that could be moved.
        head: of the last layer among them.

    Raises:
        ValueError: a pattern fits no parameter, or nothing is left to move.
    """
    if adapt == "all":
        return names
    if adapt in ("head", "body"):
        chosen = tuple(n for n in names if (n in head) == (adapt == "head"))
    else:
        for pattern in adapt:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"algorithm.adapt must be all, head, body or patterns of the network's "
                    f"parameters ({', '.join(names)}), got {pattern!r}, which fits none; "
                    "change it"
                )
        chosen = tuple(n for n in names if any(fnmatchcase(n, p) for p in adapt))
    if not chosen:
        raise ValueError(
            f"algorithm.adapt={adapt} must leave a parameter to adapt, got none of "
            f"{', '.join(names)}; choose all"
        )
    return chosen
