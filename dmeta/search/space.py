"""What is searched: keys of a run's settings, and the values that each may take.

Plain data: knows no Hydra (whose sweep syntax the command line reads spaces from) and no Tune.

A point is one choice of values: ``{"algorithm": "leo", "outer.lr": 0.001}``. What is searched only
where something else was chosen stands under that condition, in the space and in its points:
``{"algorithm": "leo", "algorithm=leo": {"algorithm.latent_lr": 0.5}}``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dmeta.registry import nearest

Value: TypeAlias = Any
"""None, a number, a text, or a list or mapping of such."""

Point: TypeAlias = Mapping[str, Value]

MOST_COMBINATIONS = 64
"""Of the named choices of a space, that are tried before a search begins."""


@dataclass(frozen=True)
class Choice:
    """One of a few values.

    Attributes:
        values: at least one, all different.
    """

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Refuses none, and the same twice."""
        if not self.values:
            raise ValueError("a choice must be of at least one value, got none; add one")
        for i, value in enumerate(self.values):
            if any(value == other and type(value) is type(other) for other in self.values[:i]):
                raise ValueError(f"a choice must be of different values, got {value!r} twice")

    @property
    def ends(self) -> tuple[Value, ...]:
        """What is tried before a search begins: all of them."""
        return self.values

    def __str__(self) -> str:
        return f"choice({','.join(map(str, self.values))})"


@dataclass(frozen=True)
class Interval:
    """A number between two others.

    Attributes:
        low: the least, may be taken.
        high: the largest; taken where the numbers are whole.
        log: equal ratios are equally likely, instead of equal differences.
        whole: whole numbers alone.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuses what has no inside, or no logarithm."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"an interval must go from a number to a larger one, got {self}; change its ends"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"an interval with tag log must be above 0, got {self}; raise its low")

    @property
    def ends(self) -> tuple[Value, ...]:
        """What is tried before a search begins."""
        return (self.low, self.high)

    @property
    def values(self) -> tuple[int, ...] | None:
        """All of them, if they are whole; else None."""
        return tuple(range(int(self.low), int(self.high) + 1)) if self.whole else None

    def __str__(self) -> str:
        inner = f"interval({self.low:g},{self.high:g})"
        inner = f"int({inner})" if self.whole else inner
        return f"tag(log,{inner})" if self.log else inner


Dimension: TypeAlias = Choice | Interval


@dataclass(frozen=True)
class Space:
    """Keys and their dimensions, and what is searched besides where one of them was chosen.

    Attributes:
        dimensions: key of the settings -> what it may be.
        conditions: ``key=value``, of a choice in `dimensions` -> the space where that was chosen.
    """

    dimensions: Mapping[str, Dimension]
    conditions: Mapping[str, Space] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses conditions on what is not chosen here."""
        for condition in self.conditions:
            key, _, value = condition.partition("=")
            chosen = self.dimensions.get(key)
            names = [str(v) for v in chosen.values] if isinstance(chosen, Choice) else []
            if value not in names:
                known = [f"{key}={name}" for name in names]
                raise ValueError(
                    f"a condition must be a choice of the space, got '{condition}'"
                    f"{nearest(condition, known)}; write it as KEY=VALUE of a key that is chosen"
                )

    def __bool__(self) -> bool:
        return bool(self.dimensions)

    def every_dimension(self) -> Iterator[tuple[str, Dimension]]:
        """All keys, those under conditions after the others; a key may come more than once."""
        yield from self.dimensions.items()
        for inner in self.conditions.values():
            yield from inner.every_dimension()

    def searched(self) -> list[str]:
        """All keys, each once."""
        return list(dict.fromkeys(key for key, _ in self.every_dimension()))


def resolved_point(point: Point) -> dict[str, Value]:
    """Key -> value: a point without what stands under conditions that it does not meet."""
    flat = {key: value for key, value in point.items() if "=" not in key}
    for condition, inner in point.items():
        if "=" in condition and meets(flat, condition):
            flat |= resolved_point(inner)
    return flat


def has_key(settings: Mapping[str, Any], key: str) -> bool:
    """Whether nested settings have a dotted key."""
    group: Any = settings
    for part in key.split("."):
        if not isinstance(group, Mapping) or part not in group:
            return False
        group = group[part]
    return True


def grid(space: Space) -> list[dict[str, Value]]:
    """Every point of a space of choices and whole numbers, each once.

    Raises:
        ValueError: a key may take any of infinitely many values.
    """
    keys, columns = list(space.dimensions), []
    for key, dimension in space.dimensions.items():
        if dimension.values is None:
            raise ValueError(
                f"a grid must be of choices, ranges and whole numbers, got {key}={dimension}; "
                "choose some of its values, or another search"
            )
        columns.append(dimension.values)
    points: list[dict[str, Value]] = []
    for values in itertools.product(*columns):
        point = dict(zip(keys, values, strict=True))
        met = {c: grid(s) for c, s in space.conditions.items() if meets(point, c)}
        for inner in itertools.product(*met.values()):
            points.append({**point, **dict(zip(met, inner, strict=True))})
    return points


def probes(space: Space) -> list[dict[str, Value]]:
    """Settled points to try before a search begins: what goes wrong, mostly does at the ends.

    Under each combination of the named choices (keys without a dot: ``algorithm``, ``model``), the
    first value of every key, and then, one key after the other, its others.
    """
    named = {k: d for k, d in space.dimensions.items() if "." not in k and isinstance(d, Choice)}
    first = {key: dimension.ends[0] for key, dimension in space.dimensions.items()}
    found: list[dict[str, Value]] = []
    for chosen in itertools.islice(
        itertools.product(*(dimension.values for dimension in named.values())), MOST_COMBINATIONS
    ):
        base = first | dict(zip(named, chosen, strict=True))
        found += _deeper(space, base)
        for key, dimension in space.dimensions.items():
            for value in dimension.ends[1:] if key not in named else ():
                changed = _deeper(space, base | {key: value})
                decides = any(condition.startswith(f"{key}=") for condition in space.conditions)
                found += changed if decides else changed[:1]
    return found


def _deeper(space: Space, top: dict[str, Value]) -> list[dict[str, Value]]:
    """A point, with the probes of what is searched besides: the first of all, then each other."""
    met = [probes(inner) for c, inner in space.conditions.items() if meets(top, c)]
    base = dict(top)
    for inner in met:
        base |= inner[0]
    return [base, *(base | probe for inner in met for probe in inner[1:])]


def meets(flat: Mapping[str, Value], condition: str) -> bool:
    """Whether a ``key=value`` holds in a settled point."""
    key, _, value = condition.partition("=")
    return key in flat and str(flat[key]) == value
