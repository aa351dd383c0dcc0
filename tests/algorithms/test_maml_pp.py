"""MAML++: its parts, one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dmeta.bilevel.estimators import Annealed, displacement, exact, first_order
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import recording, unrolled
from dmeta.bilevel.types import Adapted, Params, Stage
from tests.bilevel.problems import EVALUATION, TRAINING, Problem, first_task, flat, problem

OFF = {"per_step_norm": False, "learn_inner_lr": None, "multi_step_loss_until": 0}
NORMS = ("block1.1.weight", "block1.1.bias", "block2.1.weight", "block2.1.bias")


def gradient(at: Problem, estimator: object, stage: Stage = TRAINING) -> torch.Tensor:
    return flat(
        block_gradient("vmap", estimator, at.algorithm, at.params, at.tasks, stage).gradients
    )


def test_with_every_part_off_it_is_maml() -> None:
    plain = problem("conv4", inner_lr=0.1, inner_steps=5)
    at = problem("conv4", algorithm="maml_pp", **OFF)
    assert torch.equal(gradient(at, exact), gradient(plain, exact))


def test_every_part_is_on_unless_switched_off() -> None:
    at = problem("conv4", algorithm="maml_pp")
    shapes = {n: tuple(p.shape) for n, p in at.params.items()}
    assert all(shapes[name] == (5, 2) for name in NORMS)
    rates = {n for n in shapes if n.startswith("inner_lr/")}
    assert rates == {f"inner_lr/{n}" for n in at.algorithm.network.names if n not in NORMS}
    assert {shapes[n] for n in rates} == {(5,)}
    assert at.algorithm.inner.multi_step_loss_until > 0


def norm_only(step: int, value: float, params: Params) -> Params:
    """One row of every scale and shift changed."""
    changed = dict(params)
    for name in NORMS:
        changed[name] = params[name].clone()
        changed[name][step] += value
    return changed


@pytest.mark.parametrize("row", [0, 1, 2])
def test_step_k_sees_row_k_of_scales_and_shifts(row: int) -> None:
    """A changed row is first seen by the state after row + 1 steps (row 0: by all)."""
    options = OFF | {"per_step_norm": True, "inner_steps": 3, "eval_inner_steps": 5}
    at = problem("conv4", algorithm="maml_pp", **options)
    task = first_task(at)
    predictions = []
    for params in (at.params, norm_only(row, 0.3, at.params)):
        states: list[Adapted] = []
        at.algorithm.adapt(params, task.support, recording(states.append), EVALUATION)
        predictions.append([at.algorithm.predict(s, task.query.x) for s in states])
    same = [torch.equal(a, b) for a, b in zip(*predictions, strict=True)]
    first_changed = 0 if row == 0 else row + 1
    assert same == [k < first_changed for k in range(6)]


def test_scales_and_shifts_are_learned_by_the_outer_loop_alone() -> None:
    at = problem("conv4", algorithm="maml_pp", inner_steps=2, eval_inner_steps=2)
    states: list[Adapted] = []
    at.algorithm.adapt(at.params, first_task(at).support, recording(states.append), EVALUATION)
    assert all(torch.equal(states[2][name], at.params[name][1]) for name in NORMS)
    result = block_gradient("vmap", exact, at.algorithm, at.params, at.tasks, TRAINING)
    for name in NORMS:
        assert all(row.norm() > 1e-9 for row in result.gradients[name])


def test_a_network_without_normalisation_has_nothing_per_step() -> None:
    at = problem("mlp", algorithm="maml_pp", learn_inner_lr=None)
    assert {n: p.shape for n, p in at.params.items()} == {
        n: p.shape for n, p in problem("mlp").params.items()
    }


def test_nothing_but_norms_to_adapt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.per_step_norm must leave a parameter"):
        problem("conv4", algorithm="maml_pp", adapt=["*.1.*"])


def test_rows_have_no_displacement() -> None:
    at = problem("conv4", algorithm="maml_pp", **(OFF | {"per_step_norm": True}))
    with pytest.raises(ValueError, match="gradient=displacement must have an algorithm that"):
        displacement(at.algorithm, at.params, first_task(at), TRAINING)


@pytest.mark.parametrize("step", [0, 9, 10, 500])
def test_the_derivative_order_is_annealed(step: int) -> None:
    at = problem("mlp", inner_steps=2)
    stage = dataclasses.replace(TRAINING, step=step)
    got = gradient(at, Annealed(first_order_until=10), stage)
    assert torch.equal(got, gradient(at, first_order if step < 10 else exact, stage))
    assert not torch.equal(gradient(at, first_order), gradient(at, exact))


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gradient\.first_order_until must be >= 0, got -1"):
        Annealed(-1)


def test_the_meta_loss_is_that_of_every_step() -> None:
    at = problem("conv4", algorithm="maml_pp", inner_steps=3, multi_step_loss_until=10)
    outcome = at.algorithm.adapt(at.params, first_task(at).support, unrolled, TRAINING)
    assert len(outcome.states) == len(outcome.weights) == 3
    assert sum(outcome.weights) == pytest.approx(1)
