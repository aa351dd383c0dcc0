"""Searching the settings of a run with Ray Tune: every trial is a whole run. Knows no Hydra."""

from __future__ import annotations

from ray.tune import ResultGrid

from dmeta.search.experiment import run
from dmeta.search.interrupts import SearchStopped
from dmeta.search.options import SearchOptions
from dmeta.search.space import Choice, Interval, Space

__all__ = ["Choice", "Interval", "ResultGrid", "SearchOptions", "SearchStopped", "Space", "run"]
