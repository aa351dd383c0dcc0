"""What the page of a search shows of its trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dmeta.reports.search_view import search_view
from dmeta.search.space import Choice, Interval, Space
from dmeta.search.trial_history import BestSoFar, Event, progress
from dmeta.search.trials import not_told_apart, ranked_trials
from tests.reports.trial_rows import trial_row

SPACE = Space({"outer.lr": Interval(0.001, 0.1, log=True), "model": Choice(("a", "b"))})


def test_trials_have_marks_and_the_best_is_drawn_last() -> None:
    points: list[dict[str, Any]] = [{"outer.lr": 0.01 * at, "model": "a"} for at in range(1, 6)]
    rows = [
        trial_row(1, points[0], 0.4),
        trial_row(2, points[1], 0.8),
        trial_row(3, points[2], 0.6, status="cut"),
        trial_row(4, points[3], None),
        trial_row(5, points[4], None, status="waiting"),
        trial_row(6, points[4], None, status="failed"),
    ]
    view = search_view(rows, rows[1], [Event(6, 5, 9, 0.3, 1.0)], SPACE, "accuracy", "max")
    seen = [(mark.row.number, mark.kind, mark.shade) for mark in view.marks]
    assert seen == [
        (1, "finished", 0.0),
        (3, "partial", pytest.approx(0.5)),
        (4, "diverged", None),
        (6, "partial", None),
        (2, "best", 1.0),
    ]


def test_a_trial_says_its_number_status_score_and_all_of_its_values() -> None:
    long = "m" * 80
    rows = [
        trial_row(1, {"outer.lr": 0.0123456}, 0.56789, of_step=8),
        trial_row(2, {"model": long}, None),
    ]
    view = search_view(rows, rows[0], [], SPACE, "mse", "min")
    diverged, best = view.marks
    assert best.lines == (
        "trial 1: finished, the best",
        "validation mse 0.5679 ± 0.1, after 8 outer steps",
        "outer.lr = 0.01235",
    )
    assert diverged.lines[:2] == ("trial 2: diverged", "no score, after 10 outer steps")
    assert diverged.lines[2] == f"model = {'m' * 59}…"


def test_reports_are_placed_by_what_the_search_had_cost() -> None:
    rows = [trial_row(1, {"model": "a"}, 0.9), trial_row(2, {"model": "b"}, None)]
    events = [Event(1, 5, 50, 0.5, 7.0), Event(2, 5, 40, None, 8.5), Event(1, 10, 50, 0.4, 9.0)]
    view = search_view(rows, rows[0], events, SPACE, "accuracy", "max")
    seen = [(r.number, r.step, r.score, r.tasks, r.seconds) for r in view.reports]
    assert seen == [(1, 5, 0.5, 50, 0.0), (1, 10, 0.4, 140, 2.0)]
    assert view.best == ((50, 0.0, 0.5), (90, 1.5, 0.5), (140, 2.0, 0.5))
    assert (view.scores.low, view.scores.high) == (0.4, 0.5)


def test_the_best_so_far_costs_what_was_computed_until_then() -> None:
    events = [
        Event(3, 5, 10, None, 0),
        Event(1, 5, 50, 0.5, 1),
        Event(2, 5, 40, 0.3, 2),
        Event(1, 10, 50, 0.9, 3),
    ]
    first = [BestSoFar(10, 0, None), BestSoFar(60, 1, 0.5)]
    assert progress(events, "max") == [*first, BestSoFar(100, 2, 0.5), BestSoFar(150, 3, 0.9)]
    assert progress(events, "min") == [*first, BestSoFar(100, 2, 0.3), BestSoFar(150, 3, 0.3)]
    assert progress([], "min") == []


def test_the_best_come_first_and_what_diverged_or_failed_does_not_come() -> None:
    rows = [
        trial_row(1, {}, 0.5),
        trial_row(2, {}, 0.9, step=5),
        trial_row(3, {}, 0.9),
        trial_row(4, {}, 0.9),
        trial_row(5, {}, None),
        trial_row(6, {}, 0.95, status="failed"),
    ]
    assert [r.number for r in ranked_trials(rows, "max")] == [3, 4, 2, 1]
    assert [r.number for r in ranked_trials(rows, "min")] == [1, 3, 4, 2]


def test_what_is_as_good_by_chance_is_named_and_a_copy_is_not() -> None:
    noise = np.random.default_rng(0).standard_normal(50) * 0.1
    best = trial_row(1, {}, 0.8, scores=0.8 + noise)
    rows = [
        best,
        trial_row(2, {}, 0.79, scores=0.79 + noise[::-1]),
        trial_row(3, {}, 0.3, scores=0.3 + noise[::-1]),
        trial_row(4, {}, 0.8, scores=0.8 + noise, run_dir=best.run_dir),
        trial_row(5, {}, 0.8, scores=np.zeros(0)),
    ]
    assert not_told_apart(rows, best, "max") == [2]
