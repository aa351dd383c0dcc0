"""Searching the settings of a run with Ray Tune: every trial is a whole run. Knows no Hydra."""

from __future__ import annotations

from dmeta.search.experiment import run
from dmeta.search.options import SearchOptions
from dmeta.search.space import Choice, Interval, Space
from dmeta.search.stopping import SearchStopped

__all__ = ["Choice", "Interval", "SearchOptions", "SearchStopped", "Space", "run"]
