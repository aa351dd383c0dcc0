"""MAML, FOMAML, Reptile's displacement, ANIL and its opposite."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.inner_loop import network_params
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.estimators import displacement, exact, first_order
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import unrolled
from dmeta.bilevel.types import Adapted, Examples, Params, Stage
from tests.bilevel.problems import (
    TRAINING,
    first_task,
    flat,
    problem,
    sensible,
)

SMALLEST = 1e-12


@dataclasses.dataclass(frozen=True)
class HeadOnly:
    """Adapts one tensor of several: theta - theta' does not exist for the rest."""

    maml: Maml

    @property
    def loss(self) -> Any:
        return self.maml.loss

    def adapt(self, meta_params: Params, support: Examples, solve: Any, stage: Stage) -> Any:
        adapted = self.maml.adapt(meta_params, support, solve, stage)
        last = list(adapted)[-1]
        return {last: adapted[last]}

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        raise AssertionError("must be refused before it predicts")


def test_displacement_is_refused_for_what_adapts_something_else() -> None:
    at = problem("mlp")
    message = (
        "gradient=displacement must have an algorithm that adapts exactly its meta-parameters, "
        "got HeadOnly; choose gradient=exact or first_order"
    )
    with pytest.raises(ValueError, match=message):
        displacement(HeadOnly(at.algorithm), at.params, first_task(at), TRAINING)


def test_a_rate_of_finns_code_is_ways_times_as_large_here() -> None:
    """There the loss is the sum over the ways * shots examples, divided by the shots."""
    ways, rate = 3, 0.4
    at = problem("mlp", inner_lr=ways * rate, inner_steps=1)
    support, network = first_task(at).support, at.algorithm.network
    shots = len(support.x) / ways
    leaves = {n: p.clone().requires_grad_() for n, p in at.params.items()}
    loss = F.cross_entropy(network.apply(leaves, support.x), support.y, reduction="sum") / shots
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    expected = {
        n: p.detach() - rate * g for (n, p), g in zip(leaves.items(), gradients, strict=True)
    }
    got = at.algorithm.adapt(at.params, support, unrolled, TRAINING)
    assert (flat(got) - flat(expected)).norm() < SMALLEST


@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize("estimator", [exact, first_order])
def test_without_inner_steps_the_meta_loss_is_the_plain_query_loss(
    estimator: Any, plan: Any
) -> None:
    """Joint pre-training: the gradient is that of the loss over all query examples."""
    at = problem("conv4_strided", inner_steps=0)
    result = block_gradient(plan, estimator, at.algorithm, at.params, at.tasks, TRAINING)
    leaves = {name: p.clone().requires_grad_() for name, p in at.params.items()}
    losses = torch.stack(
        [
            F.cross_entropy(at.algorithm.network.apply(leaves, x), y)
            for x, y in zip(at.tasks.query.x, at.tasks.query.y, strict=True)
        ]
    )
    losses.sum().backward()
    torch.testing.assert_close(result.losses, losses.detach())
    for name, leaf in leaves.items():
        torch.testing.assert_close(result.gradients[name], leaf.grad)


def test_two_steps_of_maml_are_two_steps_of_gradient_descent() -> None:
    at = problem("conv4", inner_steps=2, inner_lr=0.3)
    task = first_task(at)
    weights = {name: p.clone().requires_grad_() for name, p in at.params.items()}
    for _ in range(2):
        loss = F.cross_entropy(at.algorithm.network.apply(weights, task.support.x), task.support.y)
        grads = torch.autograd.grad(loss, list(weights.values()))
        weights = {
            name: (w - 0.3 * g).detach().requires_grad_()
            for (name, w), g in zip(weights.items(), grads, strict=True)
        }
    adapted = at.algorithm.adapt(at.params, task.support, unrolled, TRAINING)
    for name, w in weights.items():
        torch.testing.assert_close(adapted[name], w.detach())


def test_the_maml_family_differs_in_its_settings_only() -> None:
    """One class: what tells them apart is the inner loop's defaults and the estimator."""
    one, *others = (problem("mlp", algorithm=a) for a in ("maml", "fomaml", "reptile", "joint"))
    for other in others:
        assert type(one.algorithm) is type(other.algorithm) is Maml
        assert torch.equal(flat(one.params), flat(network_params(other.params)))


def test_reptile_and_joint_training_are_what_their_papers_say_without_any_settings() -> None:
    reptile, joint = (problem("mlp", algorithm=a).algorithm.inner for a in ("reptile", "joint"))
    assert (reptile.inner_optimizer, reptile.carry_moments) == ("adam", True)
    assert (reptile.inner_steps, reptile.inner_batch_size) == (5, 10)
    assert joint.inner_steps == 0
    assert joint.eval_inner_steps > 0
    gradients = {name: ALGORITHMS[name].gradient for name in ("maml", "fomaml", "reptile")}
    assert gradients == {"maml": "exact", "fomaml": "first_order", "reptile": "displacement"}


@pytest.mark.parametrize("algorithm", ["anil", "body_only"])
def test_what_the_inner_loop_leaves_is_still_meta_learned(algorithm: str) -> None:
    at = problem("mlp", algorithm=algorithm)
    for estimator in (exact, first_order):
        result = block_gradient("loop", estimator, at.algorithm, at.params, at.tasks, TRAINING)
        assert all(g.norm() > SMALLEST for g in result.gradients.values())


@pytest.mark.parametrize("algorithm", ["anil", "body_only", "meta_sgd"])
def test_displacement_is_refused_where_a_part_would_never_be_learned(algorithm: str) -> None:
    assert "displacement" not in sensible(algorithm)
