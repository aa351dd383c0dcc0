"""Figures of a search: drawn for every kind of space, and nothing left out of the axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmeta.reports.search_figures import _height, _joined, search_figures
from dmeta.search.space import Choice, Dimension, Interval, Space
from dmeta.search.trial_history import Event, best_so_far
from dmeta.search.trials import TrialRow, not_told_apart, ranked_trials


def row(number: int, point: dict[str, Any], score: float | None, **changes: Any) -> TrialRow:
    own: dict[str, Any] = {
        "trial_id": str(number),
        "status": "finished" if score is not None else "diverged",
        "ci95": 0.1,
        "scores": np.zeros(0),
        "of_step": 10,
        "step": 10,
        "tasks": 100,
        "seconds": 1.0,
        "failures": 0,
        "run_dir": str(number),
        "error": None,
    }
    return TrialRow(number=number, point=point, score=score, **{**own, **changes})


METHODS = Space(
    {"algorithm": Choice(("maml", "anil", "protonet")), "outer.clip_norm": Choice((None, 1.0))},
    {
        "algorithm=maml": Space(
            {"algorithm.inner_steps": Choice((1, 3)), "algorithm.inner_lr": Interval(0.1, 1)}
        ),
        "algorithm=anil": Space(
            {"algorithm.inner_steps": Choice((5, 10)), "algorithm.inner_lr": Interval(0.001, 0.1)}
        ),
    },
)
POINTS: list[dict[str, Any]] = [
    {"algorithm": "maml", "algorithm.inner_steps": 1, "algorithm.inner_lr": 0.9},
    {"algorithm": "anil", "algorithm.inner_steps": 10, "algorithm.inner_lr": 0.002},
    {"algorithm": "protonet"},
    {"algorithm": "maml", "algorithm.inner_steps": 3, "algorithm.inner_lr": 0.2},
]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_every_figure_is_drawn_for_keys_under_several_conditions(
    tmp_path: Path, metric: str
) -> None:
    scores = [0.5, 0.7, 0.6, None]
    rows = [
        row(at + 1, {**point, "outer.clip_norm": None}, score)
        for at, (point, score) in enumerate(zip(POINTS, scores, strict=True))
    ]
    events = [Event(r.number, 10, 100, r.score or 1e9, float(r.number)) for r in rows]
    mode: Any = "max" if metric == "accuracy" else "min"
    drawn = search_figures(rows, rows[1], events, METHODS, metric, mode, tmp_path)
    assert [path.name for path in drawn] == [
        "values.png",
        "parallel.png",
        "best_so_far.png",
        "learning_curves.png",
    ]
    for path in drawn:
        image = np.asarray(Image.open(path).convert("L"))
        assert image.shape[1] == 1800
        assert (image < 250).mean() > 0.005  # not an empty sheet


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Choice((1, 3)), Choice((5, 3)), Choice((1, 3, 5))),
        (Interval(0.1, 1, log=True), Interval(0.01, 0.5), Interval(0.01, 1, log=True)),
        (Interval(0.1, 1), Choice((5, 10)), Interval(0.1, 10)),
        (Choice(("a", None)), Interval(0, 1), Choice(("a", None, 0, 1))),
    ],
)
def test_a_key_of_two_dimensions_has_one_axis(
    one: Dimension, other: Dimension, both: Dimension
) -> None:
    assert _joined(one, other) == both


def test_values_stand_where_they_belong() -> None:
    assert _height(Interval(0.01, 1, log=True), 0.1) == pytest.approx(0.5)
    assert _height(Interval(0, 4), 1) == 0.25
    assert _height(Choice(("a", "b", "c")), "c") == 1
    assert np.isnan(_height(Interval(0, 4), None))
    assert _height(Choice((None, 1.0)), None) == 0


def test_the_best_so_far_costs_what_was_computed_until_then() -> None:
    events = [Event(1, 5, 50, 0.5, 1), Event(2, 5, 40, 0.3, 2), Event(1, 10, 50, 0.9, 3)]
    assert best_so_far(events, "max") == [(50, 0.5), (90, 0.5), (140, 0.9)]
    assert best_so_far(events, "min") == [(50, 0.5), (90, 0.3), (140, 0.3)]


def test_the_best_come_first_and_what_diverged_or_failed_does_not_come() -> None:
    rows = [
        row(1, {}, 0.5),
        row(2, {}, 0.9, step=5),
        row(3, {}, 0.9),
        row(4, {}, 0.9),
        row(5, {}, None),
        row(6, {}, 0.95, status="failed"),
    ]
    assert [r.number for r in ranked_trials(rows, "max")] == [3, 4, 2, 1]
    assert [r.number for r in ranked_trials(rows, "min")] == [1, 3, 4, 2]


def test_what_is_as_good_by_chance_is_named_and_a_copy_is_not() -> None:
    noise = np.random.default_rng(0).standard_normal(50) * 0.1
    best = row(1, {}, 0.8, scores=0.8 + noise)
    rows = [
        best,
        row(2, {}, 0.79, scores=0.79 + noise[::-1]),
        row(3, {}, 0.3, scores=0.3 + noise[::-1]),
        row(4, {}, 0.8, scores=0.8 + noise, run_dir=best.run_dir),
        row(5, {}, 0.8, scores=np.zeros(0)),
    ]
    assert not_told_apart(rows, best, "max") == [2]
