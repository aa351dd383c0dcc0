"""What the settings of the inner loop mean."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.multi_step_loss import multi_step_weights
from dmeta.bilevel.estimators import (
    Checkpointed,
    Truncated,
    displacement,
    exact,
    first_order,
)
from dmeta.bilevel.implicit import Implicit
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import stop_gradient, unrolled
from dmeta.bilevel.surrogates import inner_problem_of
from dmeta.bilevel.types import Examples, Outcome, Stage, Task
from tests.bilevel.problems import (
    EVALUATION,
    TRAINING,
    Problem,
    first_task,
    flat,
    make_algorithm,
    network,
    problem,
    relative_error,
    sensible,
)


@dataclasses.dataclass
class Watching:
    """A loss that remembers which rows it was shown (regression targets are row numbers)."""

    rows: list[list[int]]

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.rows.append([int(row) for row in target[:, 0]])
        return F.mse_loss(prediction, target)


def rows_used(num_rows: int, stage: Stage, **options: Any) -> list[list[int]]:
    made, shape = network("mlp", 1)
    watch = Watching([])
    learner = make_algorithm("maml", made, watch, **options)
    x = torch.ones(num_rows, *shape, dtype=torch.float64)
    y = torch.arange(num_rows, dtype=torch.float64)[:, None]
    learner.adapt(learner.init_meta_params(), Examples(x, y), stop_gradient, stage)
    return watch.rows


def test_mini_batches_are_consecutive_slices_that_go_round() -> None:
    used = rows_used(5, TRAINING, inner_batch_size=2, inner_steps=6)
    assert used == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4], [0, 1]]


@pytest.mark.parametrize("size", [None, 5, 7])
def test_without_mini_batches_every_step_takes_all_rows(size: int | None) -> None:
    assert rows_used(5, TRAINING, inner_batch_size=size, inner_steps=2) == 2 * [[0, 1, 2, 3, 4]]


def test_training_and_evaluation_have_their_own_mini_batches() -> None:
    options = {"inner_batch_size": 1, "eval_inner_batch_size": 3, "inner_steps": 1}
    assert rows_used(4, TRAINING, **options) == [[0]]
    assert rows_used(4, EVALUATION, eval_inner_steps=2, **options) == [[0, 1, 2], [3, 0, 1]]


MOVED = [
    ("all", ["1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias"]),
    ("head", ["5.weight", "5.bias"]),
    ("body", ["1.weight", "1.bias", "3.weight", "3.bias"]),
    (("*.bias", "3.*"), ["1.bias", "3.weight", "3.bias", "5.bias"]),
]


@pytest.mark.parametrize(("adapt", "moved"), MOVED)
def test_the_inner_loop_moves_what_it_is_told_to(adapt: Any, moved: list[str]) -> None:
    at = problem("mlp", adapt=adapt)
    adapted = at.algorithm.adapt(at.params, first_task(at).support, stop_gradient, TRAINING)
    assert [n for n, p in at.params.items() if not torch.equal(adapted[n], p)] == moved


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.adapt must be .*1\.weight.*, got 'haed\.\*'"):
        problem("mlp", adapt=["haed.*"])
    with pytest.raises(ValueError, match=r"algorithm\.adapt=body must leave a parameter to adapt"):
        problem("mlp", adapt="body", model_options={"num_layers": 0})


RATES = [("per_tensor", [()] * 6), ("per_tensor_and_step", [(3,)] * 6), ("per_element", None)]


@pytest.mark.parametrize(("learned", "shapes"), RATES)
def test_learned_rates_start_as_the_inner_lr_and_do_what_it_does(learned: str, shapes: Any) -> None:
    fixed = problem("mlp", inner_lr=0.05, inner_steps=3, eval_inner_steps=5)
    at = problem("mlp", inner_lr=0.05, inner_steps=3, eval_inner_steps=5, learn_inner_lr=learned)
    rates = {n: p for n, p in at.params.items() if n.startswith("inner_lr/")}
    assert [n.removeprefix("inner_lr/") for n in rates] == list(fixed.params)
    assert [tuple(p.shape) for p in rates.values()] == (
        shapes or [tuple(p.shape) for p in fixed.params.values()]
    )
    for stage in (TRAINING, EVALUATION):
        support = first_task(at).support
        want = fixed.algorithm.adapt(fixed.params, support, stop_gradient, stage)
        got = at.algorithm.adapt(at.params, support, stop_gradient, stage)
        assert all(torch.allclose(got[n], p, rtol=1e-14) for n, p in want.items())


def test_a_step_may_be_clipped_and_have_momentum() -> None:
    at = problem("mlp", inner_lr=1.0, inner_clip_norm=1e-3, inner_steps=1)
    support = first_task(at).support
    adapted = at.algorithm.adapt(at.params, support, stop_gradient, TRAINING)
    assert torch.isclose((flat(adapted) - flat(at.params)).norm(), torch.tensor(1e-3).double())
    loose = problem("mlp", inner_lr=1.0, inner_clip_norm=1e3, inner_steps=1)
    plain = problem("mlp", inner_lr=1.0, inner_steps=1)
    pair = [p.algorithm.adapt(p.params, support, stop_gradient, TRAINING) for p in (loose, plain)]
    assert torch.allclose(flat(pair[0]), flat(pair[1]), rtol=1e-14)
    heavy = problem("mlp", inner_momentum=0.9, inner_steps=3)
    light = problem("mlp", inner_steps=3)
    moves = [
        (
            flat(p.algorithm.adapt(p.params, support, stop_gradient, TRAINING)) - flat(p.params)
        ).norm()
        for p in (heavy, light)
    ]
    assert moves[0] > 1.5 * moves[1]


def by_hand_pulled_back(at: Problem, *, pull: bool) -> dict[str, Tensor]:
    """Two plain steps of 0.1 on the first task, then one of lambda = 2 towards the start."""
    support, weights = first_task(at).support, dict(at.params)
    for _ in range(2):
        leaves = {n: p.detach().requires_grad_() for n, p in weights.items()}
        loss = F.cross_entropy(at.algorithm.network.apply(leaves, support.x), support.y)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        weights = {
            n: p.detach() - 0.1 * g for (n, p), g in zip(leaves.items(), gradients, strict=True)
        }
    return {n: p - pull * 0.1 * 2.0 * (p - at.params[n]) for n, p in weights.items()}


PULLED: dict[str, Any] = {
    "inner_lr": 0.1,
    "inner_steps": 2,
    "eval_inner_steps": 2,
    "inner_proximal": 2.0,
    "proximal_at": "end",
}


def test_a_proximal_term_at_the_end_pulls_back_once_and_in_training_alone() -> None:
    at = problem("mlp", **PULLED)
    support = first_task(at).support
    for stage in (TRAINING, EVALUATION):
        expected = by_hand_pulled_back(at, pull=stage.training)
        got = at.algorithm.adapt(at.params, support, stop_gradient, stage)
        for name, p in expected.items():
            torch.testing.assert_close(got[name], p, rtol=1e-12, atol=1e-14)
    every = problem("mlp", **{**PULLED, "proximal_at": "every_step"})
    other = every.algorithm.adapt(every.params, support, stop_gradient, TRAINING)
    assert relative_error(flat(other), flat(by_hand_pulled_back(at, pull=True))) > 1e-4


@pytest.mark.parametrize("plan", ["loop", "vmap"])
def test_the_implicit_gradient_is_of_the_regularised_loss_where_the_pull_ends(plan: Any) -> None:
    at = problem("mlp", **{**PULLED, "inner_proximal": 9.0})
    task, names = first_task(at), list(at.params)
    start = flat(at.params)

    def loss_of(vector: Tensor, examples: Examples) -> Tensor:
        sizes = [p.numel() for p in at.params.values()]
        parts = zip(names, vector.split(sizes), strict=True)
        weights = {n: part.view(at.params[n].shape) for n, part in parts}
        return F.cross_entropy(at.algorithm.network.apply(weights, examples.x), examples.y)

    w = start.clone()
    for _ in range(2):
        w = w - 0.1 * torch.func.grad(loss_of)(w, task.support)
    w = w - 0.1 * 9.0 * (w - start)
    hessian = torch.func.jacrev(torch.func.grad(loss_of))(w, task.support)
    regularised = hessian + 9.0 * torch.eye(len(w), dtype=w.dtype)
    expected = 9.0 * torch.linalg.solve(regularised, torch.func.grad(loss_of)(w, task.query))
    one = Task(*(Examples(part.x[None], part.y[None]) for part in task))
    solve = Implicit(iterations=100, tolerance=1e-12)
    got = block_gradient(plan, solve, at.algorithm, at.params, one, TRAINING)
    assert relative_error(flat(got.gradients), expected) < 1e-8


@pytest.mark.parametrize("other", [{"inner_proximal": 0.0}, {"inner_optimizer": "adam"}])
def test_a_proximal_term_at_the_end_needs_one_and_sgd(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"algorithm\.proximal_at must be every_step without"):
        problem("mlp", **{**PULLED, **other})


CARRIED: dict[str, Any] = {"inner_optimizer": "adam", "carry_moments": True, "inner_steps": 3}


def test_carried_moments_start_as_none() -> None:
    fresh = problem("mlp", inner_optimizer="adam", inner_steps=3)
    carried = problem("mlp", **CARRIED)
    support = first_task(fresh).support
    want = fresh.algorithm.adapt(fresh.params, support, stop_gradient, TRAINING)
    got = carried.algorithm.adapt(carried.params, support, stop_gradient, TRAINING)
    assert got.keys() == carried.params.keys()
    assert got.keys() > want.keys()
    for name, p in want.items():
        torch.testing.assert_close(got[name], p, rtol=1e-12, atol=1e-12)


def test_carried_moments_are_one_adam_for_all_tasks() -> None:
    """Reptile with an outer rate of 1 and one task a step is Adam, step after step, over all."""
    at = problem("mlp", "regression", "reptile", inner_batch_size=None, **CARRIED)
    params = at.params
    leaves = {n: params[n].clone().requires_grad_() for n in at.algorithm.network.names}
    adam = torch.optim.Adam(leaves.values(), lr=at.algorithm.inner.inner_lr, betas=(0.0, 0.999))
    for step in range(4):
        support = Examples(*(part[step % 2] for part in at.tasks.support))
        task = Task(Examples(*(p[None] for p in support)), Examples(*(p[None] for p in support)))
        result = block_gradient("loop", displacement, at.algorithm, params, task, TRAINING)
        params = {name: p - result.gradients[name] for name, p in params.items()}
        for _ in range(3):
            adam.zero_grad()
            at.algorithm.loss(at.algorithm.network.apply(leaves, support.x), support.y).backward()
            adam.step()
        for name, p in leaves.items():
            torch.testing.assert_close(params[name], p.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("estimator", [exact, first_order])
def test_moments_stay_none_unless_displaced(estimator: Any) -> None:
    at = problem("mlp", **CARRIED)
    gradients = block_gradient("vmap", estimator, at.algorithm, at.params, at.tasks, TRAINING)
    moments = [g for n, g in gradients.gradients.items() if n.startswith("inner_moment")]
    assert len(moments) == 7
    assert not any(g.any() for g in moments)


def test_carried_moments_are_adams() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.carry_moments must be false .* choose adam"):
        problem("mlp", carry_moments=True)


def test_the_multi_step_loss_falls_from_equal_weights_to_the_last_step_alone() -> None:
    """MAML++ (Antoniou et al. 2019, section 4), with the bounds of its code."""
    assert multi_step_weights(4, 0.0) == {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}
    assert multi_step_weights(4, 0.5) == {1: 0.125, 2: 0.125, 3: 0.125, 4: 0.625}
    assert multi_step_weights(4, 1.0)[1] == 0.03 / 4
    assert multi_step_weights(1, 0.3) == {1: 1.0}
    at = problem("mlp", multi_step_loss_until=10, inner_steps=3)
    support = first_task(at).support
    for step, states in ((0, 3), (9, 3), (10, None)):
        stage = dataclasses.replace(TRAINING, step=step)
        outcome = at.algorithm.adapt(at.params, support, unrolled, stage)
        assert (len(outcome.states) if isinstance(outcome, Outcome) else None) == states
    assert not isinstance(at.algorithm.adapt(at.params, support, unrolled, EVALUATION), Outcome)


@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize("estimator", [Checkpointed(), Truncated(5)])
def test_the_multi_step_loss_is_swept_back_from_every_step(plan: Any, estimator: Any) -> None:
    at = problem("mlp", multi_step_loss_until=10, inner_steps=5, learn_inner_lr="per_tensor")
    got, want = (
        flat(block_gradient(plan, e, at.algorithm, at.params, at.tasks, TRAINING).gradients)
        for e in (estimator, exact)
    )
    assert relative_error(got, want) < 1e-12


def test_a_multi_step_loss_has_no_implicit_gradient() -> None:
    assert "implicit" in sensible("imaml")
    at = problem("mlp", algorithm="imaml", multi_step_loss_until=10)
    with pytest.raises(ValueError, match=r"set algorithm\.multi_step_loss_until=0"):
        Implicit()(at.algorithm, at.params, first_task(at), TRAINING)


def test_steps_are_drawn_from_a_range_the_same_for_a_seed_and_outer_step() -> None:
    at = problem("mlp", inner_steps=2, inner_steps_max=4, eval_inner_steps=7)
    counts = []
    for step in range(60):
        stage = dataclasses.replace(TRAINING, step=step, seed=3)
        problems = [
            inner_problem_of(at.algorithm, at.params, first_task(at).support, stage)
            for _ in range(2)
        ]
        assert problems[0].num_steps == problems[1].num_steps
        counts.append(problems[0].num_steps)
    assert {n: counts.count(n) >= 10 for n in set(counts)} == {2: True, 3: True, 4: True}
    evaluated = inner_problem_of(at.algorithm, at.params, first_task(at).support, EVALUATION)
    assert evaluated.num_steps == 7
    message = r"inner_steps_max must be >= algorithm\.inner_steps \(5\)"
    with pytest.raises(ValueError, match=message):
        problem("mlp", inner_steps=5, inner_steps_max=4)
