"""How the values of a metric are read: direction, unit, words. Plain data; imports no torch.

A run's files hold the declarations of its metrics, so that they are shown and compared where the
metric itself cannot be made (`dmeta status`, reports, plug-ins that are not installed).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from dmeta.formatting import FRACTION, NOT_SHOWN

Direction: TypeAlias = Literal["max", "min"]
"""Which values are better: large ones or small ones."""

_UNBOUNDED = 1e9
"""A score that is worse than all others, of a metric without a bound there."""


@dataclass(frozen=True)
class Declaration:
    """What is known of a metric without computing it.

    Attributes:
        name: key of its values in ``results.json`` and ``metrics.jsonl``.
        higher_is_better: its direction.
        unit: ``fraction`` (shown in percent), ``nats``, ``target`` or ``target squared`` (that of
            the data, which is not shown), any other text, or empty: none.
        label: its name in figures, in words.
        low: its least possible value; None: there is none.
        high: its largest possible value; None: there is none.
        non_finite: what predictions that are not finite do to it, in words.
    """

    name: str
    higher_is_better: bool
    unit: str = ""
    label: str = ""
    low: float | None = None
    high: float | None = None
    non_finite: str = "the scores of such tasks are NaN"

    @property
    def direction(self) -> Direction:
        """``max`` or ``min``."""
        return "max" if self.higher_is_better else "min"

    @property
    def words(self) -> str:
        """Its name in words."""
        return self.label or self.name

    @property
    def is_fraction(self) -> bool:
        """Whether it is shown in percent."""
        return self.unit == FRACTION

    @property
    def shown_unit(self) -> str:
        """What is written for its unit in a heading; empty: nothing."""
        return "" if self.is_fraction or self.unit in NOT_SHOWN else self.unit

    @property
    def is_open_error(self) -> bool:
        """Whether it is an error without a largest value, which may differ by decades."""
        return not self.higher_is_better and self.high is None

    @property
    def worst(self) -> float:
        """A number that no score is worse than, for what takes no infinity."""
        bound = self.low if self.higher_is_better else self.high
        if bound is not None:
            return bound
        return -_UNBOUNDED if self.higher_is_better else _UNBOUNDED


def as_plain(declaration: Declaration) -> dict[str, Any]:
    """What a file holds of it."""
    return dataclasses.asdict(declaration)


def declaration_of(plain: Mapping[str, Any]) -> Declaration:
    """What a file holds, as `as_plain` wrote it; keys of later versions are left out.

    Raises:
        ValueError: it lacks the name or the direction.
    """
    known = {field.name for field in dataclasses.fields(Declaration)}
    try:
        return Declaration(**{key: value for key, value in plain.items() if key in known})
    except TypeError:
        raise ValueError(
            f"a metric must have a name and higher_is_better, got {dict(plain)}; restore the file"
        ) from None
