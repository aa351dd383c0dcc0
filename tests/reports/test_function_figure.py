"""Functions before and after adaptation: the right ones, and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.types import Examples, Stage, Task
from dmeta.metrics.regression import MSE
from dmeta.models.mlp import mlp
from dmeta.models.network import Network
from dmeta.reports.drawing import BLACK, BLUE, GREEN, ORANGE
from dmeta.reports.function_figure import FunctionPanel, adapted_functions, function_panels
from dmeta.runtime.messages import Block
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import EpisodeSize
from dmeta.training.work.episodes import task_rng
from dmeta.training.work.predictions import predict_task
from dmeta.training.work.scores import scores_of
from tests.training.pixels import has_colour

SHOTS = 7


def _maml() -> Maml:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network.of(mlp((1,), 1))
    return Maml(network, F.mse_loss, InnerLoop(inner_lr=0.01, eval_inner_steps=3))


def _panels(steps: tuple[int, ...] = (0, 1, 10), num_tasks: int = 2) -> list[FunctionPanel]:
    maml = _maml()
    size = EpisodeSize(1, SHOTS, 5)
    return function_panels(maml, maml.init_meta_params(), Sinusoid(), size, 3, steps, num_tasks)


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
    panel, maml = _panels(steps=(0, 3))[1], _maml()
    drawn = Sinusoid().draw(
        "test", EpisodeSize(1, SHOTS, 400), task_rng(3, Block("test", 0, 0, 0, 8), 1)
    )
    tensors = [torch.from_numpy(np.asarray(part)) for part in drawn]
    task = Task(Examples(tensors[0], tensors[1]), Examples(tensors[2], tensors[3]))
    stage = Stage(training=False, ways=1)
    predictions = predict_task(maml, maml.init_meta_params(), task, stage)
    scores = scores_of([MSE], predictions, 1, batched=True)["transductive_mse"]
    errors = [float(np.mean((y - panel.truth) ** 2)) for y in panel.predictions.values()]
    np.testing.assert_allclose(errors, scores.detach()[[0, 3]].numpy(), rtol=1e-4)


def test_function_panels_refuse_what_is_not_one_dimensional() -> None:
    class Images(Sinusoid):
        input_shape = (1, 28, 28)

    maml = _maml()
    with pytest.raises(ValueError, match="one input and one output"):
        function_panels(maml, maml.init_meta_params(), Images(), EpisodeSize(1, 5, 5), 0)


def test_adapted_functions_draw_every_learner(tmp_path: Path) -> None:
    learners = {"MAML": _panels(num_tasks=1), "joint pre-training": _panels(num_tasks=1)}
    path = adapted_functions(learners, tmp_path / "x.png")
    for colour in (ORANGE, GREEN, BLUE, BLACK):
        assert has_colour(path, colour)
    with Image.open(path) as image:
        assert image.width == 1800


def test_adapted_functions_refuse_different_tasks(tmp_path: Path) -> None:
    learners = {"MAML": _panels(num_tasks=1), "other": _panels(num_tasks=2)}
    with pytest.raises(ValueError, match="the same tasks"):
        adapted_functions(learners, tmp_path / "x.png")
