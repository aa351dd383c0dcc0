"""The contract of every registered algorithm."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import kinds
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import recording, unrolled
from dmeta.bilevel.types import Adapted, Examples, Kind, Stage
from tests.bilevel.problems import (
    DISTINCT,
    EVALUATION,
    LEARNS,
    ON_MODELS,
    TRAINING,
    draw_tasks,
    first_task,
    flat,
    has_option,
    predicting,
    problem,
    sensible,
    takes_inner_steps,
)
from tests.grids import covering

SMALLEST = 1e-12


COMPUTES = [(algorithm, kind) for algorithm, kind in LEARNS if algorithm in DISTINCT]
IN_STAGES = covering([(*case, stage) for case in ON_MODELS for stage in (TRAINING, EVALUATION)])


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind", "model"), ON_MODELS)
def test_adapt_and_predict_are_pure(algorithm: str, kind: Kind, model: str) -> None:
    at = problem(model, kind, algorithm)
    task = first_task(at)
    given = [*at.params.values(), *task.support, *task.query]
    given += list(at.algorithm.network.module.state_dict().values())
    before = [t.clone() for t in given]
    random_state = torch.random.get_rng_state()

    def predict() -> Tensor:
        adapted = predicting(at.algorithm.adapt(at.params, task.support, unrolled, TRAINING))
        out: Tensor = at.algorithm.predict(adapted, task.query.x)
        return out

    one, same = predict(), predict()
    assert torch.equal(one, same)
    assert one.shape == (5, 3)
    assert all(torch.equal(t, was) for t, was in zip(given, before, strict=True))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert dataclasses.is_dataclass(at.algorithm)
    with pytest.raises(dataclasses.FrozenInstanceError):
        at.algorithm.network = None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_initial_meta_parameters_are_new_float_tensors_each_time(algorithm: str) -> None:
    at = problem("mlp", kinds(ALGORITHMS[algorithm].make)[0], algorithm)
    again = at.algorithm.init_meta_params()
    assert list(again) == list(at.params)
    for name, p in at.params.items():
        assert p.is_floating_point()
        assert torch.equal(p, again[name])
        assert p.data_ptr() != again[name].data_ptr()


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind", "model", "stage"), IN_STAGES)
def test_it_adapts_from_a_single_support_example(
    algorithm: str, kind: Kind, model: str, stage: Stage
) -> None:
    at = problem(model, kind, algorithm)
    task = first_task(at)
    alone = Examples(task.support.x[:1], task.support.y[:1])
    adapted = predicting(at.algorithm.adapt(at.params, alone, unrolled, stage))
    out = at.algorithm.predict(adapted, task.query.x)
    assert out.shape == (5, 3)
    assert out.isfinite().all()


@pytest.mark.parametrize(("algorithm", "kind"), COMPUTES)
def test_evaluation_learns_from_the_support_set(algorithm: str, kind: Kind) -> None:
    """The support loss falls, whatever the method: else it does not adapt."""
    # The baseline's usual rate is for the long features of a trained network.
    options = {"head_lr": 0.3} if algorithm == "baseline" else {}
    at = problem("mlp", kind, algorithm, **options)
    support = first_task(at).support
    path: list[Adapted] = []
    final = at.algorithm.adapt(at.params, support, recording(path.append), EVALUATION)
    states = path or [final]
    losses = [
        float(at.algorithm.loss(at.algorithm.predict(s, support.x), support.y)) for s in states
    ]
    if path:
        assert losses[-1] < losses[0]
    else:
        ignorant = math.log(3) if kind == "classification" else float(support.y.square().mean())
        assert losses[-1] < ignorant


BY_GRADIENTS = covering(
    (*case, gradient, plan)
    for case in COMPUTES
    for gradient in sensible(case[0])
    for plan in ("loop", "vmap")
)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind", "gradient", "plan"), BY_GRADIENTS)
def test_meta_gradients_are_finite_and_not_all_zero(
    algorithm: str, kind: Kind, gradient: str, plan: Any
) -> None:
    at = problem("conv4_strided", kind, algorithm)
    estimator = ESTIMATORS[gradient].make()
    result = block_gradient(plan, estimator, at.algorithm, at.params, at.tasks, TRAINING)
    assert all(g.isfinite().all() for g in result.gradients.values())
    assert flat(result.gradients).norm() > SMALLEST
    assert result.losses.isfinite().all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_own_gradient_of_every_algorithm_is_one_by_which_it_learns(algorithm: str) -> None:
    assert ALGORITHMS[algorithm].gradient in sensible(algorithm)


IMPOSSIBLE = [
    ("inner_lr", 0.0, "must be > 0"),
    ("inner_lr", -0.1, "must be > 0"),
    ("inner_lr", float("nan"), "must be finite"),
    ("inner_steps", -1, "must be >= 0"),
    ("eval_inner_steps", -1, "must be >= 0"),
    ("inner_momentum", 1.0, "must be >= 0 and < 1"),
    ("inner_momentum", -0.5, "must be >= 0 and < 1"),
    ("inner_clip_norm", 0.0, "must be > 0 or null"),
    ("inner_batch_size", 0, "must be >= 1 or null"),
    ("eval_inner_batch_size", 0, "must be >= 1 or null"),
]


# Every setting once (MAML has all), and one setting of every other method.
REFUSED = [("maml", *setting) for setting in IMPOSSIBLE]
REFUSED += [
    (algorithm, *next(setting for setting in IMPOSSIBLE if has_option(algorithm, setting[0])))
    for algorithm in ALGORITHMS
    if algorithm != "maml" and any(has_option(algorithm, setting[0]) for setting in IMPOSSIBLE)
]


@pytest.mark.parametrize(("algorithm", "key", "value", "rule"), REFUSED)
def test_impossible_settings_are_refused(algorithm: str, key: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm.{key} {rule}, got {value}"):
        problem("mlp", algorithm=algorithm, **{key: value})


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("algorithm", [a for a in DISTINCT if takes_inner_steps(a)])
def test_evaluation_shows_a_state_before_and_after_every_inner_step(
    algorithm: str, steps: int
) -> None:
    at = problem("mlp", algorithm=algorithm, eval_inner_steps=steps, inner_steps=2)
    support = first_task(at).support
    states: list[Adapted] = []
    at.algorithm.adapt(at.params, support, recording(states.append), EVALUATION)
    assert len(states) == steps + 1
    trained: list[Adapted] = []
    at.algorithm.adapt(at.params, support, recording(trained.append), TRAINING)
    assert len(trained) == 3
    begun = {name: p for name, p in states[0].items() if name in at.params}
    assert begun
    assert all(torch.equal(p, at.params[name]) for name, p in begun.items())


def test_tasks_of_the_contract_differ_from_each_other() -> None:
    tasks = draw_tasks("regression", (2,), seed=0)
    assert not torch.equal(tasks.support.y[0], tasks.support.y[1])
    assert not torch.equal(tasks.support.x[0], tasks.query.x[0, :1].expand_as(tasks.support.x[0]))
