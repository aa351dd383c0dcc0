"""How a search is doing, read from its files: while it goes on, or afterwards. Imports no Ray."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmeta.commands.afar import Afar
from dmeta.commands.formats import duration
from dmeta.commands.signs import (
    RESULTS,
    SEARCH,
    TRIALS,
    Signs,
    State,
    judge,
    locked,
    read_json,
    silent_s,
)

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
    """

    run_dir: str
    state: State
    why: str
    num_trials: int | None
    trials: Sequence[Mapping[str, str]]
    best: Mapping[str, str] | None
    silent_s: float | None

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
            *([] if self.best is None else [_in_words(self.best)]),
        ]

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
    record = read_json(run_dir / SEARCH) or {}
    rows = _rows(run_dir / TRIALS)
    silent, results = silent_s(run_dir), read_json(run_dir / RESULTS)
    signs = Signs(
        locked=locked(run_dir) if afar is None else afar.lives,
        here=False,  # where it ran is not kept
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
    )


def best_of(rows: Sequence[Mapping[str, str]], mode: str | None) -> Mapping[str, str] | None:
    """The best trial, as `dmeta.search.trials.ranked_trials` has it, of the rows of its table."""
    sign = -1 if mode == "max" else 1
    scored = [r for r in rows if r["score"] and r["status"] not in ("diverged", "failed")]
    if mode is None or not scored:
        return None
    return min(scored, key=lambda r: (sign * float(r["score"]), -int(r["step"]), int(r["number"])))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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
