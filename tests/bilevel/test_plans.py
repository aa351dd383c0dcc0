"""Execution plans over every registered algorithm, model and estimator: same numbers, no traces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmeta.algorithms import ALGORITHMS
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.plans import BlockGradient, arranged, block_gradient, for_each_task
from dmeta.bilevel.types import Task
from dmeta.models import MODELS
from dmeta.options import default_options
from tests.bilevel.problems import (
    DISTINCT,
    SMALL,
    TRAINING,
    Problem,
    draw_tasks,
    flat,
    problem,
    relative_error,
    sensible,
)
from tests.grids import covering

PLANS = ("loop", "loop_channels_last", "loop_mixed", "vmap")


def plans_of(model: str) -> tuple[str, ...]:
    """Those that are not the same: layouts are of convolutions."""
    return ("loop", "vmap") if model == "mlp" else PLANS


# CAVIA needs a context; of deeper networks MAML is enough (their rounding is not).
SHALLOW = [m for m in MODELS if "context" in default_options(MODELS[m].make)]
POSSIBLE = [
    *((a, m, g) for m in SHALLOW for a in DISTINCT for g in sensible(a)),
    *(("maml", m, "exact") for m in MODELS if m not in SHALLOW),
]
# What people run: every method's own gradient on images, and MAML's on every model.
RISKY = [(a, "conv4", str(ALGORITHMS[a].gradient)) for a in DISTINCT]
CASES = covering(POSSIBLE, [*RISKY, *(("maml", m, "exact") for m in MODELS)])
CASES_AND_PLANS = covering([(*case, plan) for case in POSSIBLE for plan in plans_of(case[1])])


def run(at: Problem, gradient: str, plan: str) -> BlockGradient:
    estimator = ESTIMATORS[gradient].make()
    return block_gradient(plan, estimator, at.algorithm, at.params, at.tasks, TRAINING)


def furthest(got: BlockGradient, reference: BlockGradient) -> str:
    """The meta-parameter whose gradients differ most."""
    return max(
        got.gradients, key=lambda n: float((got.gradients[n] - reference.gradients[n]).norm())
    )


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "model", "gradient"), CASES)
def test_the_plans_agree_to_tolerance(algorithm: str, model: str, gradient: str) -> None:
    at = problem(model, algorithm=algorithm)
    loop, *others = results = [run(at, gradient, plan) for plan in plans_of(model)]
    assert flat(loop.gradients).norm() > 0
    # A difference divides what the plans round differently by its step, 3e-6; Reptile's Adam
    # divides gradients that are rounding alone (of a bias before batch-norm) by its eps, 1e-8.
    bound = 1e-8 if gradient == "finite_difference" or algorithm == "reptile" else 1e-10
    for plan, got in zip(plans_of(model)[1:], others, strict=True):
        error = relative_error(flat(got.gradients), flat(loop.gradients))
        assert error < bound, f"{plan}, most of {furthest(got, loop)}"
        torch.testing.assert_close(got.losses, loop.losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(got.predictions, loop.predictions, rtol=1e-10, atol=1e-12)
    for got in results:
        assert {n: g.shape for n, g in got.gradients.items()} == {
            n: p.shape for n, p in at.params.items()
        }
        assert got.losses.shape == (2,)
        assert got.predictions.shape == (2, 5, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "model", "gradient", "plan"), CASES_AND_PLANS)
def test_a_block_changes_nothing_it_was_given_and_leaves_no_graph(
    algorithm: str, model: str, gradient: str, plan: str
) -> None:
    at = problem(model, algorithm=algorithm)
    given = [*at.params.values(), *at.tasks.support, *at.tasks.query]
    given += list(at.algorithm.network.module.parameters())
    before = [t.detach().clone() for t in given]
    random_state = torch.random.get_rng_state()

    first, second = run(at, gradient, plan), run(at, gradient, plan)

    assert all(torch.equal(t, was) for t, was in zip(given, before, strict=True))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert not any(p.requires_grad for p in at.params.values())
    assert all(p.grad is None for p in at.algorithm.network.module.parameters())
    for result in (first, second):
        returned = [*result.gradients.values(), result.losses, result.predictions]
        assert not any(t.requires_grad for t in returned)
    assert torch.equal(flat(first.gradients), flat(second.gradients))
    assert torch.equal(first.losses, second.losses)


@pytest.mark.parametrize("plan", PLANS)
def test_meta_parameters_that_require_a_gradient_are_only_read(plan: str) -> None:
    at = problem("mlp")
    leaves = {name: p.clone().requires_grad_() for name, p in at.params.items()}
    result = block_gradient(
        plan, ESTIMATORS["exact"].make(), at.algorithm, leaves, at.tasks, TRAINING
    )
    assert all(p.grad is None for p in leaves.values())
    assert not any(g.requires_grad for g in result.gradients.values())
    assert torch.equal(flat(result.gradients), flat(run(at, "exact", plan).gradients))


@pytest.mark.parametrize("plan", PLANS)
def test_an_unused_meta_parameter_has_gradient_zero(plan: str) -> None:
    at = problem("mlp")
    dead = at.params | {"unused": torch.ones(2, dtype=torch.float64)}
    estimator = ESTIMATORS["first_order"].make()

    class Ignoring:
        loss = staticmethod(at.algorithm.loss)
        predict = staticmethod(at.algorithm.predict)

        @staticmethod
        def adapt(params: dict[str, Tensor], *args: object, **keys: object) -> object:
            used = {name: p for name, p in params.items() if name != "unused"}
            return at.algorithm.adapt(used, *args, **keys)

    gradients = block_gradient(plan, estimator, Ignoring(), dead, at.tasks, TRAINING).gradients
    assert not gradients.pop("unused").any()
    assert torch.equal(flat(gradients), flat(run(at, "first_order", plan).gradients))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4])
def test_chunks_of_a_block_add_up_to_it(chunk_size: int) -> None:
    at = problem("conv4")
    tasks = draw_tasks("classification", SMALL["conv4"][1], seed=5, T=3)
    estimator = ESTIMATORS["exact"].make()
    whole, cut = (
        block_gradient("vmap", estimator, at.algorithm, at.params, tasks, TRAINING, None, size)
        for size in (None, chunk_size)
    )
    assert relative_error(flat(cut.gradients), flat(whole.gradients)) < 1e-12
    torch.testing.assert_close(cut.losses, whole.losses, rtol=1e-12, atol=0)
    assert cut.predictions.shape == whole.predictions.shape


def test_channels_last_is_where_the_weights_of_convolutions_are() -> None:
    params = problem("conv4").params
    placed = arranged("loop_channels_last", params)
    images = {name for name, p in params.items() if p.dim() == 4}
    assert images
    for name, p in placed.items():
        assert torch.equal(p, params[name])
        assert p.is_contiguous(memory_format=torch.channels_last) or name not in images
    assert all(arranged("loop", params)[name] is p for name, p in params.items())


@pytest.mark.parametrize("plan", PLANS)
def test_for_each_task_stacks_the_outputs_of_a_pytree(plan: str) -> None:
    tasks = problem("mlp").tasks

    def measure(task: Task) -> dict[str, Tensor]:
        return {"mean": task.support.x.mean(), "query": 2 * task.query.y}

    out = for_each_task(plan, measure, tasks, torch.arange(2))
    torch.testing.assert_close(out["mean"], tasks.support.x.mean((1, 2)))
    assert torch.equal(out["query"], 2 * tasks.query.y)
