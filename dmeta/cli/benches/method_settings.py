"""Settings of every method under the same overrides: as `dmeta train algorithm=NAME` has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from dmeta.cli.errors import explain
from dmeta.cli.settings.hydra_app import compose
from dmeta.training.config import RunConfig, run_config

T = TypeVar("T")

_NOT_KEPT = ("algorithm", "runtime", "bench")


class MethodSettings(NamedTuple):
    """Of one method.

    Attributes:
        words: overrides of `dmeta train`.
        config: what they make.
    """

    words: list[str]
    config: RunConfig


def of_methods(
    names: Sequence[str], overrides: Sequence[str], use: Callable[[MethodSettings], T]
) -> tuple[dict[str, T], dict[str, str]]:
    """Method -> what is made of its settings; and those that make no sense here, and why.

    They compute in this process.

    Args:
        names: of the methods.
        overrides: as they were typed.
        use: called with each method's settings; a ValueError says that they make no sense.
    """
    from hydra.errors import HydraException

    kept = [word for word in overrides if re.split(r"[=.]", word.lstrip("+~"))[0] != "bench"]
    kept = [word for word in kept if word.partition("=")[0] not in _NOT_KEPT]
    found: dict[str, T] = {}
    left_out: dict[str, str] = {}
    for name in names:
        words = [*kept, f"algorithm={name}", "runtime=local"]
        try:
            found[name] = use(MethodSettings(words, run_config(compose("train", words))))
        except HydraException as error:
            left_out[name] = explain(error, "train", words)
        except ValueError as error:
            left_out[name] = str(error)
    return found, left_out
