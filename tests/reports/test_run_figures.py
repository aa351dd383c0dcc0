"""Figures are files with something in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import pytest

from dmeta.metrics import default_metric
from dmeta.metrics.declaration import Declaration
from dmeta.reports import run_figures
from dmeta.training.evaluation import Curve, Evaluation
from tests.training.pixels import has_colour

ACCURACY = default_metric("classification").declaration
MSE = default_metric("regression").declaration
_DECLARED = {each.name: each for each in (ACCURACY, MSE)}


def _rows(metric: str, *, val: bool = True) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(10, 101, 10):
        value = 1 - 0.005 * step
        rows.append({"event": "train", "step": step, metric: value, "seconds": 0.1 * step})
        if val and step % 50 == 0:
            row = {"event": "val", "step": step, metric: value, "ci95": 0.05, "num_tasks": 200}
            rows.append({**row, "seconds": 0.1 * step})
    rows.append({"event": "train", "step": 110, "rejected": 1, "seconds": 11.0})
    return rows


def _evaluation(metric: str, together: list[float], apart: list[float]) -> Evaluation:
    def curve(mean: list[float]) -> Curve:
        return Curve(tuple(mean), (0.01,) * len(mean))

    return Evaluation("test", 600, _DECLARED[metric], 100, "single", curve(together), curve(apart))


@pytest.mark.parametrize("metric", [ACCURACY, MSE], ids=lambda metric: metric.name)
def test_learning_curve_shows_training_and_validation(tmp_path: Path, metric: Declaration) -> None:
    rows = _rows(metric.name)
    path = run_figures.learning_curve(rows, tmp_path / "figures" / "x.png", metric)
    assert path == tmp_path / "figures" / "x.png"
    assert has_colour(path, run_figures.ORANGE)
    assert has_colour(path, run_figures.BLUE)


def test_learning_curve_without_validation_has_no_validation(tmp_path: Path) -> None:
    path = run_figures.learning_curve(_rows("mse", val=False), tmp_path / "x.png", MSE)
    assert has_colour(path, run_figures.ORANGE)
    assert not has_colour(path, run_figures.BLUE)


def test_learning_curve_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row with 'mse'"):
        run_figures.learning_curve(_rows("accuracy"), tmp_path / "x.png", MSE)


def test_inner_step_curve_draws_every_model(tmp_path: Path) -> None:
    models = {
        "MAML": _evaluation("accuracy", [0.2, 0.9, 0.95], [0.2, 0.8, 0.85]),
        "joint pre-training": _evaluation("accuracy", [0.2, 0.3, 0.4], [0.2, 0.3, 0.4]),
    }
    path = run_figures.inner_step_curve(models, tmp_path / "x.png")
    assert has_colour(path, run_figures.BLUE)
    assert has_colour(path, run_figures.RED)


@pytest.mark.slow
def test_inner_step_curve_shows_the_non_transductive_only_where_it_differs(tmp_path: Path) -> None:
    mean = [0.2, 0.5]
    images = []
    for apart in (mean, [0.2, 0.5 + 1e-9], [0.2, 0.3]):
        path = run_figures.inner_step_curve(
            {"m": _evaluation("mse", mean, apart)}, tmp_path / "x.png"
        )
        images.append(path.read_bytes())
    assert images[0] == images[1]
    assert images[0] != images[2]


def test_inner_step_curve_of_a_diverged_model_is_still_drawn(tmp_path: Path) -> None:
    models = {
        "good": _evaluation("mse", [1.0, 0.5], [1.0, 0.5]),
        "bad": _evaluation("mse", [1.0, float("inf")], [1.0, float("nan")]),
    }
    assert has_colour(run_figures.inner_step_curve(models, tmp_path / "x.png"), run_figures.BLUE)


def test_inner_step_curve_refuses_two_metrics(tmp_path: Path) -> None:
    models = {m: _evaluation(m, [1.0, 0.5], [1.0, 0.5]) for m in ("accuracy", "mse")}
    with pytest.raises(ValueError, match="accuracy and mse"):
        run_figures.inner_step_curve(models, tmp_path / "x.png")


def test_learning_curve_of_a_metric_that_training_rows_lack_shows_validation(
    tmp_path: Path,
) -> None:
    rows = [row for row in _rows("r2") if row["event"] == "val"]
    declared = Declaration("r2", higher_is_better=True, label="coefficient of determination")
    path = run_figures.learning_curve([*rows, *_rows("mse")], tmp_path / "x.png", declared)
    assert has_colour(path, run_figures.BLUE)
    assert not has_colour(path, run_figures.ORANGE)


def test_drawing_leaves_pyplot_and_its_settings_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    run_figures.learning_curve(_rows("mse"), tmp_path / "x.png", MSE)
    assert dict(matplotlib.rcParams) == before
    from matplotlib import _pylab_helpers

    assert not _pylab_helpers.Gcf.figs
