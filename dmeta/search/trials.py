"""Trials as a table: their points, how far they came, and their scores."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from ray.tune.experiment import Trial

from dmeta.addresses import within
from dmeta.runs.files import naming
from dmeta.search.scheduling import SCORE, SCORES, STEP, Scores, may_be_best
from dmeta.search.space import Value
from dmeta.search.trial_reports import ScoreMode

Status: TypeAlias = Literal["waiting", "running", "paused", "finished", "cut", "diverged", "failed"]
"""``cut``: ended before its last step, by the scheduler or the budget; ``failed``: tried again as
often as ``search.max_failures`` allows."""


_STATUS: dict[str, Status] = {
    Trial.PENDING: "waiting",
    Trial.RUNNING: "running",
    Trial.PAUSED: "paused",
    Trial.ERROR: "failed",
}
_COLUMNS = (
    "number", "trial_id", "status", "score", "ci95", "of_step", "step", "tasks", "seconds",
    "failures", "run_dir", "error",
)  # fmt: skip


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Attributes:
        number: from 1, in the order in which they were begun.
        trial_id: Tune's.
        status: what became of it.
        point: key -> value: what it tried.
        score: mean over the validation tasks, at its last report; None before the first, and
            where it is not finite.
        ci95: half-width of its 95% confidence interval.
        scores: [M] of the validation tasks.
        of_step: outer steps of the model that has these scores.
        step: outer steps at its last report.
        tasks: of training, until then.
        seconds: of training and validation, until then.
        failures: how often it failed.
        run_dir: the folder of its run.
        error: the last line of what it failed with.
    """

    number: int
    trial_id: str
    status: Status
    point: Mapping[str, Value]
    score: float | None
    ci95: float | None
    scores: Scores
    of_step: int
    step: int
    tasks: int
    seconds: float
    failures: int
    run_dir: str | None
    error: str | None

    def shown(self, key: str) -> str:
        """The value of a key, in few characters; empty if the trial did not have it."""
        return value_text(self.point[key]) if key in self.point else ""


def value_text(value: Value) -> str:
    """A value, in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def row_of(number: int, trial: Trial, folder: str, point: Mapping[str, Value]) -> TrialRow:
    """One of Tune's trials as a row.

    Args:
        number: its number.
        trial: Tune's.
        folder: of the trials' runs, a path or an address.
        point: what it is to try, until it has reported.
    """
    report: Mapping[str, Any] = trial.last_result if SCORE in trial.last_result else {}
    finite = bool(report.get(SCORES))
    status = _STATUS.get(trial.status)
    if status is None:
        status = "cut" if report.get("status", "running") == "running" else report["status"]
    return TrialRow(
        number=number,
        trial_id=trial.trial_id,
        status=status,
        point=report.get("point", point),
        score=report[SCORE] if finite else None,
        ci95=report["ci95"] if finite else None,
        scores=np.asarray(report.get(SCORES, []), np.float64),
        of_step=report.get("of_step", 0),
        step=report.get(STEP, 0),
        tasks=report.get("tasks", 0),
        seconds=report.get("seconds", 0.0),
        failures=trial.num_failures,
        run_dir=within(folder, report["folder"]) if report else None,
        error=_last_line(trial.error_file) if status == "failed" else None,
    )


def ranked_trials(rows: Iterable[TrialRow], mode: ScoreMode) -> list[TrialRow]:
    """Those with a score, the best first; of equals, the one with more steps, then the earlier.

    Args:
        rows: all trials.
        mode: which way scores are better.
    """
    sign = -1 if mode == "max" else 1

    def key(row: TrialRow) -> tuple[float, int, int]:
        assert row.score is not None
        return sign * row.score, -row.step, row.number

    scored = [r for r in rows if r.score is not None and r.status not in ("diverged", "failed")]
    return sorted(scored, key=key)


def not_told_apart(rows: Sequence[TrialRow], best: TrialRow, mode: ScoreMode) -> list[int]:
    """Numbers of the other trials that may be as good as the best one: by chance it is ahead."""
    return [
        row.number
        for row in rows
        if row.run_dir != best.run_dir
        and row.status != "diverged"
        and len(row.scores) == len(best.scores) > 0
        and may_be_best(row.scores, best.scores, mode)
    ]


def write_table(rows: Sequence[TrialRow], searched: Sequence[str], path: Path) -> None:
    """Write ``trials.csv``, aside and then renamed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *searched])
    for row in rows:
        own = [getattr(row, name) for name in _COLUMNS]
        writer.writerow([*own, *(row.point.get(key, "") for key in searched)])
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with naming(path):
        aside.write_text(text.getvalue())
    aside.replace(path)


def read_numbers(path: Path) -> dict[str, int]:
    """Trial's id -> number, from a table that is there."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["trial_id"]: int(row["number"]) for row in csv.DictReader(file)}


def _last_line(path: str | None) -> str | None:
    if path is None or not Path(path).exists():
        return None
    lines = [line for line in Path(path).read_text().splitlines() if line.strip()]
    return lines[-1].strip() if lines else None
