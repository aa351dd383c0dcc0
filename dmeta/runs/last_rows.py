"""The last rows of a run's metrics and log; lines that are no rows are counted.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from dmeta.runs.json_lines import lines_backwards
from dmeta.runs.layout import LOG, METRICS
from dmeta.runs.records import ANY_NUMBER, BEGUN, ENDED, TRAIN_ROW, VAL_ROW, Shape, misfit

_PACE_ROWS = 20  # lines of metrics that the pace is taken from


class LastRows(NamedTuple):
    """The end of a run's metrics.

    Attributes:
        trains: lines of training metrics, the last first.
        val: the last validation.
        bad: lines after these that are no rows.
    """

    trains: list[dict[str, Any]]
    val: dict[str, Any] | None
    bad: int


class LastSession(NamedTuple):
    """The end of a run's log.

    Attributes:
        event: how the last session ended, or that it began.
        began: its beginning.
        bad: lines since then that are no lines of a log.
    """

    event: dict[str, Any] | None
    began: dict[str, Any] | None
    bad: int


def last_rows(run_dir: Path, metric: str) -> LastRows:
    """The last rows of metrics of a run, whose primary metric is of this name."""
    trains: list[dict[str, Any]] = []
    val_row: Shape = {**VAL_ROW, metric: ANY_NUMBER}
    val, bad = None, 0
    for row in lines_backwards(run_dir / METRICS):
        event = None if row is None else row.get("event")
        if row is None or not isinstance(event, str):
            bad += 1
        elif event == "train" and len(trains) < _PACE_ROWS:
            fits = misfit(row, TRAIN_ROW) is None and _is_before(row, trains)
            trains += [row] if fits else []
            bad += not fits
        elif event == "val" and val is None:
            fits = misfit(row, val_row) is None
            val = row if fits else None
            bad += not fits
        if val is not None and len(trains) == _PACE_ROWS:
            break
    return LastRows(trains, val, bad)


def _is_before(row: Mapping[str, Any], later: Sequence[Mapping[str, Any]]) -> bool:
    return not later or (row["step"] < later[-1]["step"] and row["seconds"] <= later[-1]["seconds"])


def pace_of(trains: Sequence[Mapping[str, Any]]) -> tuple[float | None, float]:
    """Seconds of a step, by the last lines, and the longest time between two of these."""
    if not trains:
        return None, 0.0
    last, first = trains[0], trains[-1]
    if last is first:
        return last["seconds"] / max(last["step"], 1), last["seconds"]
    pace = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
    return pace, max(late["seconds"] - early["seconds"] for late, early in pairwise(trains))


def last_session(run_dir: Path) -> LastSession:
    """The last session that the log of a run tells of."""
    last, bad = None, 0
    for row in lines_backwards(run_dir / LOG):
        if row is None:
            bad += 1
        elif "event" in row:
            shape = BEGUN if row["event"] == "begun" else ENDED
            if misfit(row, shape) is not None:
                bad += 1
                continue
            last = last or row
            if row["event"] == "begun":
                return LastSession(last, row, bad)
    return LastSession(last, None, bad)
