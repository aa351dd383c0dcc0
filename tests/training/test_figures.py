"""Figures are files with something in them, and the functions in them are the right ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.models.mlp import mlp
from dmeta.models.network import Network
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import EpisodeSize
from dmeta.training import figures
from dmeta.training.evaluation import Curve, Evaluation
from dmeta.training.work import predict_task, scores_of

SHOTS = 7


def _has_colour(path: Path, colour: str) -> bool:
    """Whether some pixels are (nearly) of the colour ``#rrggbb``."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels - wanted).max(axis=-1) <= 6).sum()) > 50


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

    return Evaluation("test", 600, metric, 100, "single", curve(together), curve(apart))


def _maml() -> Maml:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network.of(mlp((1,), 1))
    return Maml(network, F.mse_loss, InnerLoop(inner_lr=0.01, eval_inner_steps=3))


def _panels(steps: tuple[int, ...] = (0, 1, 10), num_tasks: int = 2) -> list[figures.FunctionPanel]:
    maml = _maml()
    size = EpisodeSize(1, SHOTS, 5)
    return figures.function_panels(
        maml, maml.init_meta_params(), Sinusoid(), size, 3, steps, num_tasks
    )


@pytest.mark.parametrize(
    ("metric", "kind"), [("accuracy", "classification"), ("mse", "regression")]
)
def test_learning_curve_shows_training_and_validation(
    tmp_path: Path, metric: str, kind: Any
) -> None:
    path = figures.learning_curve(_rows(metric), tmp_path / "figures" / "x.png", metric, kind)
    assert path == tmp_path / "figures" / "x.png"
    assert _has_colour(path, figures.ORANGE)
    assert _has_colour(path, figures.BLUE)


def test_learning_curve_without_validation_has_no_validation(tmp_path: Path) -> None:
    rows = _rows("loss", val=False)
    path = figures.learning_curve(rows, tmp_path / "x.png", "loss", "classification")
    assert _has_colour(path, figures.ORANGE)
    assert not _has_colour(path, figures.BLUE)


def test_learning_curve_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row with 'mse'"):
        figures.learning_curve(_rows("accuracy"), tmp_path / "x.png", "mse", "regression")


def test_inner_step_curve_draws_every_model(tmp_path: Path) -> None:
    models = {
        "MAML": _evaluation("accuracy", [0.2, 0.9, 0.95], [0.2, 0.8, 0.85]),
        "joint pre-training": _evaluation("accuracy", [0.2, 0.3, 0.4], [0.2, 0.3, 0.4]),
    }
    path = figures.inner_step_curve(models, tmp_path / "x.png")
    assert _has_colour(path, figures.BLUE)
    assert _has_colour(path, figures.RED)


def test_inner_step_curve_shows_the_non_transductive_only_where_it_differs(tmp_path: Path) -> None:
    mean = [0.2, 0.5]
    images = []
    for apart in (mean, [0.2, 0.5 + 1e-9], [0.2, 0.3]):
        path = figures.inner_step_curve({"m": _evaluation("mse", mean, apart)}, tmp_path / "x.png")
        images.append(path.read_bytes())
    assert images[0] == images[1]
    assert images[0] != images[2]


def test_inner_step_curve_of_a_diverged_model_is_still_drawn(tmp_path: Path) -> None:
    models = {
        "good": _evaluation("mse", [1.0, 0.5], [1.0, 0.5]),
        "bad": _evaluation("mse", [1.0, float("inf")], [1.0, float("nan")]),
    }
    assert _has_colour(figures.inner_step_curve(models, tmp_path / "x.png"), figures.BLUE)


def test_inner_step_curve_refuses_two_metrics(tmp_path: Path) -> None:
    models = {m: _evaluation(m, [1.0, 0.5], [1.0, 0.5]) for m in ("accuracy", "mse")}
    with pytest.raises(ValueError, match="accuracy and mse"):
        figures.inner_step_curve(models, tmp_path / "x.png")


def test_function_panels_tabulate_a_sine_wave() -> None:
    for panel in _panels():
        assert panel.support_x.shape == panel.support_y.shape == (SHOTS,)
        assert panel.x.shape == panel.truth.shape == (400,)
        assert (np.diff(panel.x) >= 0).all()
        # a sin(x - p) = b sin x + c cos x for some b, c: fitted on the curve, it fits the support.
        basis = np.stack([np.sin(panel.x), np.cos(panel.x)], axis=1)
        (b, c), *_ = np.linalg.lstsq(basis, panel.truth, rcond=None)
        np.testing.assert_allclose(basis @ (b, c), panel.truth, atol=1e-5)
        fitted = b * np.sin(panel.support_x) + c * np.cos(panel.support_x)
        np.testing.assert_allclose(fitted, panel.support_y, atol=1e-5)
        assert 0.1 <= np.hypot(b, c) <= 5.0


def test_function_panels_show_the_learner_before_and_after_adaptation() -> None:
    first, second = _panels()
    names = ["before adaptation", "after 1 inner step", "after 10 inner steps"]
    assert list(first.predictions) == names
    before, one, ten = (first.predictions[name] for name in names)
    assert before.shape == (400,)
    maml = _maml()
    x = torch.from_numpy(first.x.astype(np.float32))[:, None]
    expected = maml.network.apply(dict(maml.init_meta_params()), x)[:, 0].detach().numpy()
    np.testing.assert_allclose(before, expected, atol=1e-6)

    def support_error(y: Any) -> float:
        return float(np.mean((np.interp(first.support_x, first.x, y) - first.support_y) ** 2))

    assert support_error(ten) < support_error(one) < support_error(before)
    assert not np.allclose(first.truth, second.truth)


def test_function_panels_agree_with_the_evaluation_of_the_same_tasks() -> None:
    from dmeta.bilevel.types import Examples, Stage, Task
    from dmeta.runtime.protocol import Block
    from dmeta.training.supply import task_rng

    panel, maml = _panels(steps=(0, 3))[1], _maml()
    drawn = Sinusoid().draw(
        "test", EpisodeSize(1, SHOTS, 400), task_rng(3, Block("test", 0, 0, 0, 8), 1)
    )
    tensors = [torch.from_numpy(np.asarray(part)) for part in drawn]
    task = Task(Examples(tensors[0], tensors[1]), Examples(tensors[2], tensors[3]))
    stage = Stage(training=False, ways=1)
    predictions = predict_task(maml, maml.init_meta_params(), task, stage)
    scores = scores_of("regression", predictions)["transductive"]
    errors = [float(np.mean((y - panel.truth) ** 2)) for y in panel.predictions.values()]
    np.testing.assert_allclose(errors, scores.detach()[[0, 3]].numpy(), rtol=1e-4)


def test_function_panels_refuse_what_is_not_one_dimensional() -> None:
    class Images(Sinusoid):
        input_shape = (1, 28, 28)

    maml = _maml()
    with pytest.raises(ValueError, match="one input and one output"):
        figures.function_panels(maml, maml.init_meta_params(), Images(), EpisodeSize(1, 5, 5), 0)


def test_adapted_functions_draw_every_learner(tmp_path: Path) -> None:
    learners = {"MAML": _panels(num_tasks=1), "joint pre-training": _panels(num_tasks=1)}
    path = figures.adapted_functions(learners, tmp_path / "x.png")
    for colour in (figures.ORANGE, figures.GREEN, figures.BLUE, figures.BLACK):
        assert _has_colour(path, colour)
    with Image.open(path) as image:
        assert image.width == 1800


def test_adapted_functions_refuse_different_tasks(tmp_path: Path) -> None:
    learners = {"MAML": _panels(num_tasks=1), "other": _panels(num_tasks=2)}
    with pytest.raises(ValueError, match="the same tasks"):
        figures.adapted_functions(learners, tmp_path / "x.png")


def test_drawing_leaves_pyplot_and_its_settings_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figures.adapted_functions({"MAML": _panels(num_tasks=1)}, tmp_path / "x.png")
    assert dict(matplotlib.rcParams) == before
    from matplotlib import _pylab_helpers

    assert not _pylab_helpers.Gcf.figs
