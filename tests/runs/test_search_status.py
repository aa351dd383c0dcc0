"""`dmeta status` of a search: its table of trials, the best of them, and whether it goes on."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.cli import status as status_command
from dmeta.runs import search_status
from dmeta.runs.lock import only_one_in
from dmeta.search import trials
from tests.runs.status_lines import told


def test_the_columns_of_a_table_of_trials_are_those_that_are_written() -> None:
    assert set(search_status._DESCRIBED) == set(trials._COLUMNS)


def trial(number: int, state: trials.Status, score: float | None, step: int) -> trials.TrialRow:
    return trials.TrialRow(
        number=number, trial_id=f"t{number}", status=state, point={"outer.lr": 0.1 / number},
        score=score, ci95=0.01, scores=np.zeros(0), of_step=step, step=step, tasks=step * 4,
        seconds=60.0 * number, failures=0, run_dir=None, error=None,
    )  # fmt: skip


TRIALS = [
    trial(1, "finished", 0.5, 20),
    trial(2, "cut", 0.9, 10),
    trial(3, "finished", 0.9, 20),
    trial(4, "running", None, 0),
    trial(5, "diverged", 0.0, 20),
    trial(6, "failed", 1.0, 20),
]


@pytest.fixture
def search(tmp_path: Path) -> Path:
    run_dir = tmp_path / "search"
    run_dir.mkdir()
    record = {"format": 1, "search": {"num_trials": 8}, "mode": "max"}
    (run_dir / "search.json").write_text(json.dumps(record))
    trials.write_table(TRIALS, ["outer.lr"], run_dir / "trials.csv")
    return run_dir


def test_a_search_has_its_table_and_the_best(search: Path) -> None:
    with only_one_in(search):
        lines = told(search).splitlines()
    assert lines[0].startswith(f"{search}: running (last sign of life 0:0")
    assert lines[1] == "6 of 8 trials: 2 finished, 1 cut, 1 running, 1 diverged, 1 failed"
    assert lines[2].split() == [
        "number", "status", "score", "ci95", "step", "seconds", "failures", "outer.lr",
    ]  # fmt: skip
    assert lines[5].split() == ["3", "finished", "0.9", "0.01", "20", "180", "0", "0.03333"]
    assert lines[-1] == "best: trial 3, 0.9±0.01 at step 20 in 3:00 (outer.lr=0.03333)"
    assert json.loads(told(search, "json=true"))["best"]["trial_id"] == "t3"


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_trial_is_the_one_that_the_search_would_choose(search: Path, mode: Any) -> None:
    rows, bad = search_status._rows(search / "trials.csv")
    assert bad == 0
    best = search_status.best_of(rows, mode)
    assert best is not None
    assert int(best["number"]) == trials.ranked_trials(TRIALS, mode)[0].number


def test_a_search_ends_and_may_have_no_trial_yet(search: Path) -> None:
    (search / "results.json").write_text("{}")
    assert told(search).startswith(f"{search}: finished\n")
    (search / "trials.csv").unlink()
    assert told(search).splitlines()[1] == "0 of 8 trials"


def test_a_search_that_was_killed_here_is_stopped_at_once(search: Path) -> None:
    record = json.loads((search / "search.json").read_text())
    for host, state in (("far-away", "running"), (socket.gethostname(), "stopped")):
        (search / "search.json").write_text(json.dumps({**record, "host": host}))
        assert status_command.status(search).state == state
    with only_one_in(search):
        assert status_command.status(search).state == "running"
