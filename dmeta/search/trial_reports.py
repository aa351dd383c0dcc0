"""The reports of a trial after each validation, stored so that they can be repeated.

A line of ``reports.jsonl`` is one report: ``score`` and ``ci95`` (mean over the validation tasks
and the half-width of its 95% confidence interval), ``scores`` (of every task, the same ones in all
trials), ``of_step`` (outer steps of the model that these are of: the last one or, where
``eval.checkpoint`` is not ``last``, the best so far), ``step`` (outer steps done), ``tasks`` (of
training, so far), ``seconds`` (of this run, so far), ``metric``, ``status`` (``running``,
``finished``, ``diverged``), ``point`` (what was tried: key -> value) and ``folder`` (of the run,
among those of the trials).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from dmeta.addresses import last_part
from dmeta.metrics.declaration import Declaration, Direction
from dmeta.runs.files import AppendedFile, replace_file
from dmeta.runs.json_lines import parsed
from dmeta.search.scheduling import SCORE, SCORES, STEP
from dmeta.search.space import Value
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import Evaluation, has_diverged

TrialReport: TypeAlias = dict[str, Any]
ScoreMode: TypeAlias = Direction

REPORTS = "reports.jsonl"


def is_better(score: float, other: float, mode: ScoreMode) -> bool:
    """Whether a score is better than another one."""
    return score > other if mode == "max" else score < other


class Reports:
    """The reports of a trial, on the disk."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        metric: Declaration,
        point: Mapping[str, Value],
        step: int,
    ) -> None:
        """Read those that are there; those after `step`, which will come again, are dropped.

        Args:
            config: settings of the trial.
            folder: its run_dir, or the copy of it that is at hand.
            metric: the primary one.
            point: what it tries.
            step: outer steps that the trial has done.
        """
        self._config, self._point = config, point
        self._metric, self._mode = metric, metric.direction
        path = folder / REPORTS
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        there = [report for line in lines if (report := _parsed(line, step)) is not None]
        # The last one of a shorter run is not the last of this one.
        self.there = [{**report, "status": self._status(report)} for report in there]
        kept = "".join(json.dumps(report) + "\n" for report in self.there)
        replace_file(path, kept.encode())
        self._file = AppendedFile(path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, evaluation: Evaluation, seconds: float) -> TrialReport:
        """Note a validation; returns its report."""
        step = evaluation.step
        if math.isfinite(evaluation.value) and not has_diverged(evaluation):
            scores = [round(float(each), 6) for each in evaluation.scores]
            chosen: TrialReport = {SCORE: evaluation.value, "ci95": evaluation.ci95, SCORES: scores}
        else:
            chosen = {SCORE: self._metric.worst, "ci95": 0.0, SCORES: []}
        chosen["of_step"] = step
        last = self.there[-1] if self.there else None
        keeps_best = self._config.eval.checkpoint != "last"
        if keeps_best and last and not is_better(chosen[SCORE], last[SCORE], self._mode):
            chosen = {key: last[key] for key in chosen}
        chosen[STEP] = step
        extra = {"seconds": seconds, "status": self._status(chosen)}
        report = self._completed({**chosen, **extra})
        self.there.append(report)
        self._file.append((json.dumps(report) + "\n").encode())
        return report

    def diverged(self, step: int, seconds: float) -> TrialReport:
        """The report of a trial whose numbers went out of bounds; not kept: it would again."""
        score = self._metric.worst
        nothing = {SCORE: score, "ci95": 0.0, SCORES: [], "of_step": step}
        return self._completed({**nothing, STEP: step, "seconds": seconds, "status": "diverged"})

    def _status(self, report: TrialReport) -> str:
        if report[STEP] != self._config.steps:
            return "running"
        return "finished" if report[SCORES] else "diverged"

    def _completed(self, report: TrialReport) -> TrialReport:
        assert self._config.run_dir is not None
        return {
            **report,
            "tasks": report[STEP] * self._config.meta_batch_size,
            "metric": self._metric.name,
            "point": dict(self._point),
            "folder": last_part(self._config.run_dir),
        }


def _parsed(line: bytes, step: int) -> TrialReport | None:
    """A line's report, if it is whole and not after `step`."""
    report = parsed(line)  # None: torn, by a kill
    done = None if report is None else report.get(STEP)
    return report if isinstance(done, int) and done <= step else None
