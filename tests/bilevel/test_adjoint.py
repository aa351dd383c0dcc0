"""Steps pulled back by differences, where a ReLU switches; and what a walk keeps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from dmeta.bilevel.adjoint import InnerPoint, difference_pull, exact_pull, num_kept, walk
from dmeta.bilevel.chain import Chain
from dmeta.bilevel.estimators import FiniteDifference, exact
from dmeta.bilevel.inner import InnerProblem
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.transforms.rate import Rate
from dmeta.bilevel.types import Params
from tests.bilevel.problems import TRAINING, flat, problem, relative_error

ZERO = {"w": torch.zeros(3, dtype=torch.float64)}
V = {"w": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)}
STEP = 1e-3


def kinked(*at: float) -> InnerProblem:
    """|w|^2 and a ReLU that switches at each of the distances from 0 along V."""

    def objective(params: Params, _: int) -> Tensor:
        w = params["w"]
        along = w @ V["w"] / V["w"].norm()
        kinks = [torch.relu(along - distance) for distance in at]
        return torch.stack([w.square().sum(), *kinks]).sum()

    return InnerProblem(
        objective=objective,
        start=ZERO,
        optimizer=Chain((Rate(0.1),), {}),
        num_steps=1,
        finish=lambda w, _: w,
    )


@pytest.mark.parametrize("at", [(), (2 * STEP,), (0.3 * STEP,), (-0.3 * STEP,), (0.2 * STEP, STEP)])
def test_a_relu_that_switches_on_one_side_does_no_harm(at: tuple[float, ...]) -> None:
    args = (lambda _: kinked(*at), ZERO, InnerPoint(ZERO, ((),)), 0, InnerPoint(V, ((),)))
    (_, expected), (_, got) = exact_pull(*args), difference_pull(STEP)(*args)
    torch.testing.assert_close(expected.iterate["w"], 0.8 * V["w"])
    torch.testing.assert_close(got.iterate["w"], expected.iterate["w"])


def test_relus_that_switch_on_both_sides_do() -> None:
    at = (0.3 * STEP, -0.3 * STEP)
    args = (lambda _: kinked(*at), ZERO, InnerPoint(ZERO, ((),)), 0, InnerPoint(V, ((),)))
    got = difference_pull(STEP)(*args)[1].iterate["w"]
    assert relative_error(got, 0.8 * V["w"]) > 10


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize("model", ["mlp", "conv4", "conv4_strided"])
def test_differences_in_float32_come_near_the_exact_gradient(model: str, plan: str) -> None:
    wide = {} if model == "mlp" else {"filters": 8, "blocks": 3}
    at = problem(model, model_options=wide, inner_steps=2, inner_lr=0.1)
    args = (at.algorithm, at.params, at.tasks, TRAINING)
    expected = flat(block_gradient(plan, exact, *args).gradients)
    network = dataclasses.replace(at.algorithm.network, module=at.algorithm.network.module.float())
    single = dataclasses.replace(at.algorithm, network=network)
    params = {name: p.float() for name, p in at.params.items()}
    tasks = type(at.tasks)(
        *(type(p)(*(t.float() if t.is_floating_point() else t for t in p)) for p in at.tasks)
    )
    got = block_gradient(plan, FiniteDifference(), single, params, tasks, TRAINING)
    assert relative_error(flat(got.gradients).double(), expected) < 0.03


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 5, 16, 99, 100, 101])
def test_a_walk_keeps_about_twice_the_root_of_the_steps(num_steps: int) -> None:
    walked = walk(dataclasses.replace(kinked(), num_steps=num_steps))
    assert len(walked.kept) + len(walked.last) <= num_kept(num_steps) + 2
    assert num_kept(num_steps) <= 2 * num_steps**0.5


def test_a_walk_that_is_not_swept_keeps_nothing() -> None:
    walked = walk(dataclasses.replace(kinked(), num_steps=9), for_sweep=False)
    assert (walked.kept, walked.last, list(walked.judged)) == ([], [], [9])
