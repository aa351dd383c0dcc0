"""Search spaces from Hydra's sweep syntax, and the settings of a point of a space.

algorithm.inner_lr=tag(log,interval(0.01,1))   a number, equal ratios equally likely
algorithm.inner_steps=range(1,8)               1 to 7, as Hydra counts
model.width=int(interval(16,128))              a whole number, 16 to 128
algorithm=maml,fomaml or choice(maml,fomaml)   one of them
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from dmeta.cli.errors import unknown_key
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.settings.schema import names_of
from dmeta.quoting import as_override, as_text
from dmeta.search.space import Choice, Dimension, Interval, Space, Value, has_key, probes
from dmeta.training.config import RunConfig, run_config


class SplitOverrides(NamedTuple):
    """A command line's overrides, apart.

    Attributes:
        fixed: those of one value.
        space: what the others search.
    """

    fixed: list[str]
    space: dict[str, Dimension]


class SearchedSpace(NamedTuple):
    """What the command line of `dmeta tune` searches.

    Attributes:
        space: key -> its values.
        arguments: the whole command line.
    """

    space: Mapping[str, Dimension]
    arguments: Sequence[str]


def without_space(arguments: Sequence[str]) -> tuple[list[str], SearchedSpace]:
    """The command line without what is searched, and that."""
    flags = [a for a in arguments if a.startswith("-")]
    if "-m" in flags or "--multirun" in flags:
        raise ValueError("dmeta tune sweeps by itself: leave -m out")
    fixed, space = split_overrides(arguments)
    # Next to the other overrides: argparse takes no two groups of them with a flag between.
    at = next((i for i, word in enumerate(fixed) if "=" in word and word[0] != "-"), len(fixed))
    words = [*fixed[:at], *first_choices(space), *fixed[at:]]
    return words, SearchedSpace(space, list(arguments))


def first_choices(space: Mapping[str, Dimension]) -> list[str]:
    """A value for each key that names a whole choice, so that the rest can be composed."""
    return [
        as_override(key, dimension.values[0])
        for key, dimension in space.items()
        if "." not in key and isinstance(dimension, Choice)
    ]


def split_overrides(overrides: Sequence[str]) -> SplitOverrides:
    """What is searched, and the rest.

    Args:
        overrides: as on the command line; what Hydra's grammar does not take is left to it.

    Raises:
        ValueError: a sweep that cannot be searched.
    """
    parser = OverridesParser.create()
    fixed: list[str] = []
    space: dict[str, Dimension] = {}
    for text in overrides:
        try:
            override = parser.parse_override(as_text(text))
        except Exception:  # Hydra complains of it again, and is listened to then
            fixed.append(text)
            continue
        if override.is_sweep_override() and not override.is_hydra_override():
            space[override.key_or_group] = _dimension(override, text)
        else:
            fixed.append(text)
    return SplitOverrides(fixed, space)


def space_of_preset(preset: Mapping[str, Any]) -> Space:
    """The space that a preset (``search/space=...``) says: key -> sweep, or condition -> space.

    Raises:
        ValueError: something else.
    """
    dimensions: dict[str, Dimension] = {}
    conditions: dict[str, Space] = {}
    for key, value in preset.items():
        if "=" in key:
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"search.space must have a group of keys under '{key}', got {value!r}; "
                    "change it"
                )
            conditions[key] = space_of_preset(value)
        elif isinstance(value, list | tuple):
            dimensions[key] = Choice(tuple(value))
        else:
            found = split_overrides([f"{key}={value}"]).space
            if key not in found:
                raise ValueError(
                    f"search.space must have several values for {key}, got {value!r}; write a "
                    "list, choice(...), range(...), interval(...) or tag(log,interval(...))"
                )
            dimensions |= found
    return Space(dimensions, conditions)


@dataclass(frozen=True)
class Composer:
    """Settings of a trial: what the command line composes, with a point's values.

    Attributes:
        overrides: of the command line, those of one value.
        presets: names and texts of the YAML files of the user's own (`presets.own_presets`): those
            may change while the search goes on, and are not on every node.
    """

    overrides: tuple[str, ...]
    presets: tuple[tuple[str, str], ...] = ()

    def __call__(self, point: Mapping[str, Value]) -> RunConfig:
        """The settings of a point; what they have no key for is left out.

        Raises:
            ValueError: a value that a key cannot have.
        """
        settings = self._composed(point)
        for key, value in point.items():
            if has_key(settings, key) and "." in key:
                *path, name = key.split(".")
                functools.reduce(lambda group, part: group[part], path, settings)[name] = value
            elif key in settings and not isinstance(settings[key], Mapping):
                settings[key] = value
        return run_config(settings)

    def check(self, space: Space) -> None:
        """Raise ValueError if no trial would have one of the keys; the nearest one is named."""
        found = [self._composed(point) for point in probes(space)]
        for key in space.searched():
            if not any(has_key(settings, key) for settings in found):
                raise ValueError(f"{unknown_key(key, 'train', self.overrides)} (in the space)")

    def _composed(self, point: Mapping[str, Value]) -> dict[str, Any]:
        """What the groups that are chosen compose to."""
        chosen = tuple(as_override(k, v) for k, v in point.items() if names_of(k))
        return copy.deepcopy(_composed((*self.overrides, *chosen), self.presets))


@functools.lru_cache(maxsize=64)
def _composed(overrides: tuple[str, ...], presets: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    settings = compose("tune", overrides, presets=dict(presets))
    del settings["search"]
    return settings


def _dimension(override: Override, text: str) -> Dimension:
    sweep: Any = override._value
    try:
        if isinstance(sweep, IntervalSweep):
            assert sweep.start is not None
            assert sweep.end is not None
            whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
            return Interval(sweep.start, sweep.end, "log" in sweep.tags, whole)
        if getattr(sweep, "shuffle", False):
            raise ValueError("a search has no order to shuffle; leave shuffle out")
        if isinstance(sweep, RangeSweep):
            values = list(sweep.range())
            if sweep.step == 1 and len(values) > 1 and isinstance(sweep.start, int):
                return Interval(int(values[0]), int(values[-1]), "log" in sweep.tags, whole=True)
            return Choice(tuple(map(_number, values)))
        if override.value_type is not None and override.value_type.name == "GLOB_CHOICE_SWEEP":
            return Choice(tuple(sweep.filter(names_of(override.key_or_group))))
        return Choice(tuple(Override._convert_value(value) for value in sweep.list))
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from None


def _number(value: Any) -> int | float:
    """Hydra counts in decimals where a step is no whole number."""
    return int(value) if isinstance(value, int) else float(value)
