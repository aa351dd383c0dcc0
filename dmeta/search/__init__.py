"""Searching the settings of a run with Ray Tune: every trial is a whole run. Knows no Hydra.

What this package exports is imported when it is first used: a search space is read without Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.tune import ResultGrid

    from dmeta.search.experiment import run
    from dmeta.search.interrupts import SearchStopped
    from dmeta.search.options import SearchOptions
    from dmeta.search.space import Choice, Interval, Space

__all__ = ["Choice", "Interval", "ResultGrid", "SearchOptions", "SearchStopped", "Space", "run"]

_HOMES = {
    "ResultGrid": "ray.tune",
    "run": "dmeta.search.experiment",
    "SearchStopped": "dmeta.search.interrupts",
    "SearchOptions": "dmeta.search.options",
    "Choice": "dmeta.search.space",
    "Interval": "dmeta.search.space",
    "Space": "dmeta.search.space",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dmeta.search' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
