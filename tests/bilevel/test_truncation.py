"""Truncated backpropagation through time, against windows that are unrolled one by one."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from dmeta.algorithms.multi_step_loss import multi_step_weights
from dmeta.bilevel.estimators import Checkpointed, Truncated, exact, first_order
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.types import Params
from tests.bilevel.problems import TRAINING, Problem, flat, problem, relative_error
from tests.grids import covering

STEPS, MOMENTUM = 5, 0.9
PLANS = ("loop", "vmap")


def learner() -> Problem:
    """A loss after every step, a rule with a state, and meta-parameters that enter every step."""
    return problem(
        "mlp", "regression", inner_steps=STEPS, inner_lr=0.1, inner_momentum=MOMENTUM,
        learn_inner_lr="per_tensor", multi_step_loss_until=10,
    )  # fmt: skip


def got(estimator: Any, plan: Any) -> Params:
    at = learner()
    return block_gradient(plan, estimator, at.algorithm, at.params, at.tasks, TRAINING).gradients


def by_hand(window: int, exact_steps: int) -> Tensor:
    """Each window from constants on: MAML's steps with momentum and the losses after them."""
    at = learner()
    names = at.algorithm.network.names
    weights = multi_step_weights(STEPS, 0.0)
    theta = {name: p.clone().requires_grad_() for name, p in at.params.items()}

    def loss(w: Params, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = at.algorithm.loss(at.algorithm.network.apply(dict(w), x), y)
        return out

    total = torch.zeros((), dtype=torch.float64)
    for i in range(at.tasks.support.x.shape[0]):
        support, query = ([part.x[i], part.y[i]] for part in at.tasks)
        w = {name: theta[name] for name in names}
        v = {name: torch.zeros_like(p) for name, p in w.items()}
        for step in range(STEPS):
            if step % window == 0 and step > 0:
                w = {name: p.detach().requires_grad_() for name, p in w.items()}
                v = {name: p.detach() for name, p in v.items()}
            end = min(step - step % window + window, STEPS)
            grads = torch.autograd.grad(loss(w, *support), list(w.values()), create_graph=True)
            if step < end - exact_steps:
                grads = tuple(g.detach() for g in grads)
            v = {n: MOMENTUM * v[n] + g for n, g in zip(names, grads, strict=True)}
            w = {n: p - theta["inner_lr/" + n] * v[n] for n, p in w.items()}
            total = total + weights[step + 1] * loss(w, *query)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, list(theta.values()))])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "last", "plan"), covering(product((1, 2, 3, 4), (0, 1, 5), PLANS))
)
def test_a_loss_is_pulled_back_to_its_windows_begin(window: int, last: int, plan: Any) -> None:
    expected = by_hand(window, last)
    assert relative_error(flat(got(Truncated(last, window), plan)), expected) < 1e-12
    whole = flat(got(Truncated(last), plan))
    assert relative_error(expected, whole) > 1e-3, "a window that covers all would show nothing"


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("window", [None, STEPS, 100])
def test_one_window_of_all_steps_truncates_nothing(window: int | None, plan: Any) -> None:
    for last, whole in ((STEPS, exact), (STEPS, Checkpointed()), (0, first_order)):
        one = flat(got(Truncated(last, window), plan))
        assert relative_error(one, flat(got(whole, plan))) < 1e-12


def test_initial_weights_hear_of_the_first_window_alone() -> None:
    """With the last step's loss only, nothing reaches them through a cut."""
    at = problem("mlp", inner_steps=4, learn_inner_lr="per_tensor")
    for window, reaches in ((3, False), (4, True)):
        gradients = block_gradient(
            "vmap", Truncated(0, window), at.algorithm, at.params, at.tasks, TRAINING
        ).gradients
        assert any(gradients[name].any() for name in at.algorithm.network.names) is reaches
        assert all(g.any() for name, g in gradients.items() if name.startswith("inner_lr/"))
