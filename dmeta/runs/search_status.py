"""The state of a search, read from its files, during or after it. Imports no Ray."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmeta.formatting import duration
from dmeta.runs.layout import RESULTS, SEARCH, TRIALS_TABLE
from dmeta.runs.liveness import RunState, Signs, is_here, judge, locked, silent_s
from dmeta.runs.records import SEARCH_RECORD, read_record
from dmeta.runs.remote_status import Afar

_SHOWN = ("number", "status", "score", "ci95", "step", "seconds", "failures")
_DESCRIBED = (*_SHOWN, "trial_id", "of_step", "tasks", "run_dir", "error")


@dataclass(frozen=True)
class SearchStatus:
    """A search as its files show it.

    Attributes:
        run_dir: its folder.
        state: whether it goes on.
        why: how that is known.
        num_trials: how many it is to have; None: every point of a grid.
        trials: the rows of trials.csv: column -> text.
        best: the row of the best so far; None: no trial has a score.
        silent_s: seconds since something was written.
        skipped_rows: of trials.csv that are no trials.
    """

    run_dir: str
    state: RunState
    why: str
    num_trials: int | None
    trials: Sequence[Mapping[str, str]]
    best: Mapping[str, str] | None
    silent_s: float | None
    skipped_rows: int

    @property
    def mark(self) -> object:
        """Changes when there is something new, and not as time goes by."""
        return self.state, self.trials

    def lines(self) -> list[str]:
        """The same for people."""
        counts = Counter(row["status"] for row in self.trials)
        of = "" if self.num_trials is None else f" of {self.num_trials}"
        states = ", ".join(f"{number} {status}" for status, number in counts.items())
        return [
            f"{self.run_dir}: {self.state}" + (f" ({self.why})" if self.why else ""),
            f"{len(self.trials)}{of} trials" + (f": {states}" if states else ""),
            *self._table(),
            *self._left_out(),
            *([] if self.best is None else [_in_words(self.best)]),
        ]

    def _left_out(self) -> list[str]:
        if not self.skipped_rows:
            return []
        rows = "row" if self.skipped_rows == 1 else "rows"
        return [f"left out: {self.skipped_rows} {rows} of {TRIALS_TABLE} that dmeta did not write"]

    def _table(self) -> list[str]:
        """Its lines, every column as wide as it must be."""
        if not self.trials:
            return []
        searched = [key for key in self.trials[0] if key not in _DESCRIBED]
        columns = [*_SHOWN, *searched]
        table = [columns, *([_short(row[key]) for key in columns] for row in self.trials)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [[cell.rjust(w) for cell, w in zip(row, widths, strict=True)] for row in table]
        return ["  ".join(line) for line in lines]


def search_status(run_dir: Path, afar: Afar | None = None) -> SearchStatus:
    """What the files of a search say.

    Args:
        run_dir: its folder, or a copy of the small files in it.
        afar: of a search at an address.

    Raises:
        ValueError: one of them is damaged.
    """
    record = read_record(run_dir / SEARCH, SEARCH_RECORD) or {}
    rows, bad = _rows(run_dir / TRIALS_TABLE)
    silent, results = silent_s(run_dir), read_record(run_dir / RESULTS, {})
    signs = Signs(
        locked=locked(run_dir) if afar is None else afar.lives,
        here=afar is None and is_here(record),
        silent_s=silent,
        begun=True,
        through=results is not None,
        failure=None,
    )
    state, why = judge(signs)
    return SearchStatus(
        run_dir=str(run_dir) if afar is None else afar.address,
        state=state,
        why=why,
        num_trials=record["search"]["num_trials"],
        trials=rows,
        best=best_of(rows, record.get("mode")),
        silent_s=silent,
        skipped_rows=bad,
    )


def best_of(rows: Sequence[Mapping[str, str]], mode: str | None) -> Mapping[str, str] | None:
    """The best trial, as `dmeta.search.trials.ranked_trials` has it, of the rows of its table."""
    sign = -1 if mode == "max" else 1
    scored = [r for r in rows if r["score"] and r["status"] not in ("diverged", "failed")]
    if mode is None or not scored:
        return None
    return min(scored, key=lambda r: (sign * float(r["score"]), -int(r["step"]), int(r["number"])))


def _rows(path: Path) -> tuple[list[dict[str, str]], int]:
    """The rows of a table of trials, and how many others it has.

    Raises:
        ValueError: it cannot be read, or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise ValueError(
            f"{path} must be a table that can be read, got {error.strerror or 'an error'}; make "
            "it readable, or restore it"
        ) from None
    lines = csv.reader(io.StringIO(text.replace("\0", "\ufffd"), newline=""))
    head: list[str] = []
    rows, bad = [], 0
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            break
        except csv.Error:  # a cell that is too large
            bad += 1
            continue
        if not head:
            head = cells
            continue
        row = dict(zip(head, cells, strict=False))
        fits = len(cells) == len(head) and _is_trial(row)
        rows += [row] if fits else []
        bad += not fits
    if missing := [key for key in _DESCRIBED if key not in head]:
        raise ValueError(
            f"{path} must have a column {missing[0]}, got a table without it; it was altered or "
            "truncated: restore it"
        )
    return rows, bad


def _is_trial(row: Mapping[str, str]) -> bool:
    """Whether what is a number in a table of trials is one."""
    whole = all(re.fullmatch("[0-9]{1,18}", row.get(key, "")) for key in ("number", "step"))
    numbers = ("seconds", "score", "ci95") if row.get("score") else ("seconds",)
    return whole and all(_is_finite(row.get(key, "")) for key in numbers)


def _is_finite(text: str) -> bool:
    try:
        return abs(float(text)) < 1e300
    except ValueError:
        return False


def _short(text: str) -> str:
    try:
        return text if text.isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text


def _in_words(best: Mapping[str, str]) -> str:
    points = ", ".join(f"{k}={_short(v)}" for k, v in best.items() if k not in _DESCRIBED and v)
    score = f"{_short(best['score'])}±{float(best['ci95']):.2g}"
    took = duration(float(best["seconds"]))
    return f"best: trial {best['number']}, {score} at step {best['step']} in {took} ({points})"
