"""What a search would do, from its settings alone; imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dmeta.cli.settings.sweeps import Composer, space_of_preset
from dmeta.options import checked
from dmeta.search.options import SearchOptions
from dmeta.search.space import Dimension, Space, probes
from dmeta.training.config import RunConfig

_SEARCH = ("search=", "search.", "search/")


class PlannedSearch(NamedTuple):
    """A search that is new.

    Attributes:
        config: settings of the first point.
        space: what is searched.
        options: how.
        composer: makes settings of a point.
    """

    config: RunConfig
    space: Space
    options: SearchOptions
    composer: Composer


def planned_search(
    settings: Mapping[str, Any],
    fixed: Sequence[str],
    space: Mapping[str, Dimension],
    presets: Mapping[str, str],
) -> PlannedSearch:
    """The search that composed settings and a space ask for.

    Args:
        settings: of `dmeta tune`, composed.
        fixed: overrides of one value.
        space: what the other overrides search.
        presets: the user's own (`dmeta.cli.settings.presets.own_presets`).

    Raises:
        ValueError: whatever is wrong with the settings of the search, or of its first point.
    """
    group = dict(settings["search"])
    preset = space_of_preset(group.pop("space", None) or {})
    whole = Space({**preset.dimensions, **space}, preset.conditions)
    options = checked(SearchOptions, group, "search")
    # What a search is of is nothing to its trials.
    own = tuple(each for each in fixed if not is_of_search(each))
    composer = Composer(own, tuple(presets.items()))
    first = probes(whole)[0] if whole else {}
    return PlannedSearch(composer(first), whole, options, composer)


def fixed_of(arguments: Sequence[str], space: Mapping[str, Dimension]) -> list[str]:
    """The overrides of one value on a command line."""
    given = [a for a in arguments if "=" in a and not a.startswith("-")]
    return [a for a in given if a.partition("=")[0].lstrip("+") not in space]


def is_of_search(override: str) -> bool:
    """Whether an override says how it is searched, and nothing of a trial."""
    return override.lstrip("+").startswith(_SEARCH)
