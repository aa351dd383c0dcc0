"""The axes of a search's figures: where values and scores stand. Draws nothing.

The only place that decides which axis is logarithmic, what is labelled, and what a colour means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dmeta.search.space import Choice, Dimension, Interval, Space, Value
from dmeta.search.trial_reports import ScoreMode
from dmeta.search.trials import TrialRow

_PREFERRED = ("algorithm.inner_lr", "outer.lr")
_MOST_LABELS = 10
_MOST_TICKS = 5
_IN_A_DECADE = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))


@dataclass(frozen=True)
class KeyAxis:
    """The axis of a key.

    Attributes:
        key: of the settings.
        dimension: the values that it shows.
    """

    key: str
    dimension: Dimension

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers; otherwise they are categories, at equal distances."""
        return _is_numeric(self.dimension)

    @property
    def is_log(self) -> bool:
        """Whether the axis is logarithmic."""
        return self.is_numeric and _is_log(self.dimension)

    def position(self, value: Value) -> float:
        """Where a value stands on an axis of this key alone: a number, or its category's index."""
        return float(value) if self.is_numeric else float(self._index(value))

    def height(self, value: Value) -> float:
        """Where a value stands on one of several parallel axes: from 0 to 1."""
        if isinstance(self.dimension, Choice):
            return self._index(value) / max(1, len(self.dimension.values) - 1)
        scale = math.log if self.dimension.log else float
        low, high = scale(self.dimension.low), scale(self.dimension.high)
        return (scale(value) - low) / (high - low)

    def labelled(self) -> list[Value]:
        """The values to label: the categories, or the ends of an interval and what is between."""
        dimension = self.dimension
        if isinstance(dimension, Choice):
            return list(dimension.values[:: math.ceil(len(dimension.values) / _MOST_LABELS)])
        if not dimension.log:
            return [dimension.low, (dimension.low + dimension.high) / 2, dimension.high]
        first, last = math.ceil(math.log10(dimension.low)), math.floor(math.log10(dimension.high))
        decades = [10.0**power for power in range(first, last + 1)]
        apart = [value for value in decades if 0.1 < self.height(value) < 0.9]
        return [dimension.low, *apart, dimension.high]

    def _index(self, value: Value) -> int:
        assert isinstance(self.dimension, Choice)
        return [_identity(each) for each in self.dimension.values].index(_identity(value))


@dataclass(frozen=True)
class ScoreAxis:
    """The axis of the scores, and their colours.

    Attributes:
        metric: their name.
        mode: which way scores are better.
        low: the least score shown.
        high: the largest score shown.
        has_outliers: errors far above `high` are outside of it.
    """

    metric: str
    mode: ScoreMode
    low: float
    high: float
    has_outliers: bool = False

    @classmethod
    def of(cls, scores: Iterable[float], metric: str, mode: ScoreMode) -> ScoreAxis:
        """The axis for these scores; for errors, without those above 20 times the median."""
        known = list(scores)
        low, high = min(known, default=0.0), max(known, default=1.0)
        if mode == "max" or low <= 0:
            return cls(metric, mode, low, high)
        typical = [score for score in known if score <= 20 * float(np.median(known))]
        return cls(metric, mode, low, max(typical), has_outliers=high > max(typical))

    @property
    def is_log(self) -> bool:
        """Whether the axis is logarithmic: that of errors which differ much."""
        return self.mode == "min" and self.low > 0 and self.high >= 3 * self.low

    @property
    def ends(self) -> tuple[float, float] | None:
        """Where the axis begins and ends; None: it has room for all that is drawn."""
        if self.is_log:
            return self.low / 1.3, self.high * 1.3
        room = 0.1 * (self.high - self.low) or 0.1 * self.high
        return (self.low - room, self.high + room) if self.has_outliers else None

    @property
    def label(self) -> str:
        """What the scores are."""
        return f"validation {self.metric}"

    @property
    def darkest_is_high(self) -> bool:
        """Whether the larger scores have the darker colours; the better ones do."""
        return self.mode == "max"

    def fraction(self, score: float) -> float:
        """Where a score stands between `low` (0) and `high` (1); those outside stand at the end."""
        if self.low == self.high:
            return 0.5
        scale = math.log if self.is_log else float
        low, high = scale(self.low), scale(self.high)
        return min(1.0, max(0.0, (scale(score) - low) / (high - low)))

    def labelled(self) -> list[float]:
        """The scores to label: five from `low` to `high`, at equal distances."""
        if self.low == self.high:
            return [self.low]
        spaced = np.geomspace if self.is_log else np.linspace
        return [float(score) for score in spaced(self.low, self.high, 5)]


def key_axes(space: Space, rows: Sequence[TrialRow]) -> dict[str, KeyAxis]:
    """The axes of the keys that were tried.

    A key that is searched under several conditions has one axis for all of them. Values that were
    tried but are not in the space (population-based training changes values) are shown too.
    """
    found: dict[str, Dimension] = {}
    for key, dimension in space.every_dimension():
        found[key] = joined_dimension(found[key], dimension) if key in found else dimension
    tried = {key: [row.point[key] for row in rows if key in row.point] for key in found}
    return {
        key: KeyAxis(key, _with_values(dimension, tried[key]))
        for key, dimension in found.items()
        if tried[key]
    }


def plane_keys(axes: Mapping[str, KeyAxis]) -> tuple[str, str] | None:
    """The keys to draw against each other: the two learning rates, if they were searched."""
    numbers = [key for key, axis in axes.items() if axis.is_numeric]
    chosen = [key for key in _PREFERRED if key in numbers]
    chosen += [key for key in numbers if key not in chosen]
    return (chosen[0], chosen[1]) if len(chosen) > 1 else None


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers to label on a logarithmic axis, as many as there is room for from low to high.

    They go on far beyond both ends, for an axis that is zoomed out.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for parts in _IN_A_DECADE:
        ticks = [p * 10.0**power for power in range(first - 3, last + 9) for p in parts]
        if sum(low <= tick <= high for tick in ticks) <= _MOST_TICKS:
            return ticks
    every = math.ceil((last - first) / _MOST_TICKS)
    return [10.0**power for power in range(first - 3 * every, last + 9, every)]


def joined_dimension(one: Dimension, other: Dimension) -> Dimension:
    """A dimension that has the values of both."""
    if _is_numeric(one) and _is_numeric(other) and Interval in (type(one), type(other)):
        ends = [*one.ends, *other.ends]
        is_log = min(ends) > 0 and (_is_log(one) or _is_log(other))
        return one if min(ends) == max(ends) else Interval(min(ends), max(ends), is_log)
    return _choice([*(one.values or one.ends), *(other.values or other.ends)])


def _with_values(dimension: Dimension, tried: Sequence[Value]) -> Dimension:
    """The dimension, extended by the values that it does not have."""
    if isinstance(dimension, Choice):
        return _choice([*dimension.values, *tried])
    low, high = min(dimension.low, *tried), max(dimension.high, *tried)
    return replace(dimension, low=low, high=high, log=dimension.log and low > 0)


def _choice(values: Iterable[Value]) -> Choice:
    return Choice(tuple({_identity(value): value for value in values}.values()))


def _identity(value: Value) -> str:
    """The same for equal values; tells True from 1, and can be asked of lists too."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return repr(list(value) if isinstance(value, tuple) else value)


def _is_numeric(dimension: Dimension) -> bool:
    if isinstance(dimension, Interval):
        return True
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in dimension.values)


def _is_log(dimension: Dimension) -> bool:
    """Whether numbers are best seen on a logarithmic axis."""
    if isinstance(dimension, Interval):
        return dimension.log
    numbers = sorted(map(float, dimension.values))
    return numbers[0] > 0 and numbers[-1] / numbers[0] >= 10
