"""Small searches on the sinusoid, what they left, and settings that make trials fail."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import ResultGrid

from dmeta.reports.run_report import draw_run
from dmeta.reports.search_report import report_search
from dmeta.search import Choice, SearchOptions, Space, run
from dmeta.search.experiment import Changed
from dmeta.search.trials import TrialRow
from dmeta.training.config import RunConfig
from tests.conftest import tiny_config

RATES = Space({"outer.lr": Choice((0.001, 0.01)), "algorithm.inner_lr": Choice((0.001, 0.02))})
HALF = Space({"outer.lr": Choice((0.001, 0.01)), "algorithm.inner_lr": Choice((0.02,))})
"""Of the points of `RATES`: every trial is a process that imports torch."""


@dataclass(frozen=True)
class Failing:
    """Settings of a point, but for outer.lr=0.01: there the trial fails so often first."""

    config: RunConfig
    folder: Path
    times: int

    def __call__(self, point: Mapping[str, Any]) -> RunConfig:
        """The settings, in the search's own process always."""
        if self.folder.exists() and point.get("outer.lr") == 0.01:
            failures = list(self.folder.iterdir())
            if os.environ.get("RAY_JOB_ID") and len(failures) < self.times:
                (self.folder / str(len(failures))).touch()
                raise RuntimeError("the disk of this node is on fire")
        return Changed(self.config)(point)


class Watching:
    """Keeps what it is told; sends this process a signal when a trial is as far as that."""

    def __init__(self, signal_at: tuple[int, int] | None = None) -> None:
        self.rows: Sequence[TrialRow] = ()
        self.phases: list[str] = []
        self.signal_at = signal_at

    def on_trials(self, rows: Sequence[TrialRow], best: TrialRow | None) -> None:
        self.rows = rows
        if self.signal_at is not None:
            number, step = self.signal_at
            if any(row.number >= number and row.step >= step for row in rows):
                self.signal_at = None
                os.kill(os.getpid(), signal.SIGTERM)

    def on_phase(self, what: str) -> None:
        self.phases.append(what)


def search(
    run_dir: Path | str,
    space: Space = RATES,
    watching: Watching | None = None,
    configure: Any = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    searcher: Any = None,
    **options: Any,
) -> ResultGrid:
    """A search of a few trials of six outer steps, validated every second one."""
    changes = {"eval__every": 2, "device": "cpu", **(settings or {})}
    return run(
        tiny_config("unused", **changes),
        space,
        SearchOptions(**{"sampler": "grid", "num_trials": None, **options}),
        run_dir=run_dir,
        resume=resume,
        configure=configure,
        searcher=searcher,
        watchers=[watching or Watching()],
        draw=draw_run,
        report=report_search,
    )


def table(run_dir: Path) -> list[dict[str, str]]:
    """The rows of its trials."""
    with (run_dir / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def outcome(run_dir: Path) -> dict[Any, Any]:
    """Point -> what came of it: what does not depend on the clock, nor on who came first."""
    keys = ("status", "score", "ci95", "of_step", "step", "tasks")
    searched = ("outer.lr", "algorithm.inner_lr")
    return {tuple(row[k] for k in searched): tuple(row[k] for k in keys) for row in table(run_dir)}


def outcome_of_half(run_dir: Path) -> dict[Any, Any]:
    """Of a search of `RATES`, the points of `HALF`."""
    half = {point: came for point, came in outcome(run_dir).items() if point[1] == "0.02"}
    assert len(half) == 2
    return half


def results_of(run_dir: Path) -> dict[str, Any]:
    """What it concluded."""
    return dict(json.loads((run_dir / "results.json").read_text()))
