"""What a user sees of a search, on a terminal and in a log."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from rich.console import Console

from dmeta.cli.terminal.tune_display import TuneDisplay
from dmeta.search.options import SearchOptions
from dmeta.search.trials import TrialRow

SEARCHED = ["algorithm", "outer.lr"]


def row(
    number: int, status: Any = "running", score: float | None = None, **changes: Any
) -> TrialRow:
    own = {
        "trial_id": f"id{number}",
        "point": {"algorithm": "maml", "outer.lr": 0.00123456},
        "ci95": None if score is None else 0.0123,
        "of_step": 100,
        "scores": np.zeros(0),
        "step": 100,
        "tasks": 2500,
        "seconds": 3.0,
        "failures": 0,
        "run_dir": None,
        "error": None,
    }
    return TrialRow(number=number, status=status, score=score, **{**own, **changes})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(
    terminal: bool, width: int = 100, encoding: str = "utf-8"
) -> tuple[TuneDisplay, Any, Clock]:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=file, force_terminal=terminal, width=width, legacy_windows=False)
    clock = Clock()
    options = SearchOptions(num_trials=9)
    display = TuneDisplay(["what is searched"], options, SEARCHED, console, 10.0, clock)

    def text() -> str:
        file.flush()
        buffer: Any = file.buffer
        return str(buffer.getvalue().decode(encoding))

    return display, text, clock


def test_a_log_has_a_line_when_a_trial_ends_and_else_now_and_then() -> None:
    display, text, clock = shown(terminal=False)
    display.on_phase("trying the ends of the space")
    running = row(1, score=0.5)
    with display:
        display.on_trials([running, row(2, "waiting")], running)
        clock.now = 5.0
        display.on_trials([running, row(2)], running)  # nothing ended, and it is too soon
        clock.now = 6.0
        ended = row(1, "finished", 0.9)
        display.on_trials([ended, row(2)], ended)
        clock.now = 17.0
        display.on_trials([ended, row(2)], ended)
    assert text().splitlines() == [
        "trying the ends of the space",
        "what is searched",
        "0:00: 2 of 9 trials (1 running, 1 waiting); best: trial 1, 0.5 ± 0.012 at step 100 "
        "(algorithm=maml, outer.lr=0.001235)",
        "0:06: 2 of 9 trials (1 running, 1 finished); best: trial 1, 0.9 ± 0.012 at step 100 "
        "(algorithm=maml, outer.lr=0.001235)",
        "0:17: 2 of 9 trials (1 running, 1 finished); best: trial 1, 0.9 ± 0.012 at step 100 "
        "(algorithm=maml, outer.lr=0.001235)",
    ]


def test_a_terminal_has_a_table_of_the_best_and_those_at_work() -> None:
    display, text, _ = shown(terminal=True, width=120)
    best = row(3, "finished", 0.75)
    others = [row(n, "cut", 0.1, point={"algorithm": "protonet"}) for n in range(4, 30)]
    with display:
        display.on_trials([row(1), row(2, "waiting"), best, *others], best)
    picture = text()
    assert "0.75 ± 0.012" in picture
    assert "protonet" in picture
    assert "26 cut" in picture
    assert picture.count(" cut ") <= 13  # a screen of them, not all


def test_before_a_score_there_is_no_best() -> None:
    display, text, _ = shown(terminal=False, encoding="ascii")
    with display:
        display.on_trials([row(1)], None)
    assert text().splitlines()[-1] == "0:00: 1 of 9 trials (1 running)"


def test_the_end_says_what_was_written_and_what_is_next() -> None:
    display, text, _ = shown(terminal=False, encoding="ascii")
    display.conclude(["accuracy 0.9 ± 0.1"], ["a/best.yaml", "a/report.html"], "dmeta x")
    assert text().splitlines() == [
        "accuracy 0.9 +- 0.1",
        "wrote     a/best.yaml",
        "          a/report.html",
        "next      dmeta x",
    ]
