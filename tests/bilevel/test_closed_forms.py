"""Every estimator on quadratics, where the meta-gradient has a closed form.

Task t: support loss (w - c_t)^T A_t (w - c_t) / 2, query loss (w - d_t)^T B_t (w - d_t) / 2. Then
theta' - c = M^K (theta - c) with M = I - lr A, and dL/dtheta = (M^K)^T B (theta' - d).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import pytest
import torch
from torch import Tensor

from dmeta.bilevel.estimators import displacement, exact, first_order
from dmeta.bilevel.inner import ConstantRate, InnerProblem, InnerSGD
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Params, Stage, Task
from tests.bilevel.problems import TRAINING

P, T = 4, 3
BOUND = 1e-12
PLANS = ("loop", "vmap")
STEPS = (0, 1, 2, 5)


@dataclass(frozen=True)
class Quadratic:
    """Prediction: the weights themselves. x is a matrix A [P, P], y a centre c [P]."""

    lr: float
    num_steps: int
    learned_lr: bool = False

    @staticmethod
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        """Prediction [P, P + 1]: the matrix beside the weights."""
        away = prediction[:, -1] - target
        return away @ prediction[:, :-1] @ away / 2

    def adapt(self, meta_params: Params, support: Examples, solve: Solver, stage: Stage) -> Adapted:
        lr = meta_params["lr"] if self.learned_lr else self.lr
        return solve(
            InnerProblem(
                objective=lambda w, step: self.loss(self.predict(w, support.x), support.y),
                start={"w": meta_params["w"]},
                optimizer=InnerSGD(ConstantRate(lr)),
                num_steps=self.num_steps,
                finish=lambda w: w,
            )
        )

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        return torch.cat([x, adapted["w"][:, None]], dim=1)


def draw() -> tuple[Tensor, Task]:
    """Theta [P] and T tasks with symmetric positive definite matrices."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    def definite() -> Tensor:
        root = normal(T, P, P)
        return root @ root.mT / P + torch.eye(P, dtype=torch.float64)

    support, query = Examples(definite(), normal(T, P)), Examples(definite(), normal(T, P))
    return normal(P), Task(support, query)


LR = 0.2
THETA, TASKS = draw()


def one(t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, c, B, d of task t."""
    return TASKS.support.x[t], TASKS.support.y[t], TASKS.query.x[t], TASKS.query.y[t]


def power(matrix: Tensor, exponent: int) -> Tensor:
    return reduce(torch.matmul, [matrix] * exponent, torch.eye(P, dtype=torch.float64))


def adapted_by_hand(t: int, steps: int) -> tuple[Tensor, Tensor]:
    """theta' [P] and its Jacobian M^K [P, P]."""
    a, c, _, _ = one(t)
    jacobian = power(torch.eye(P, dtype=torch.float64) - LR * a, steps)
    return c + jacobian @ (THETA - c), jacobian


def got(estimator: object, steps: int, plan: str, tasks: Task = TASKS) -> Tensor:
    algorithm = Quadratic(LR, steps)
    return block_gradient(plan, estimator, algorithm, {"w": THETA}, tasks, TRAINING).gradients["w"]


def assert_close(value: Tensor, expected: Tensor) -> None:
    assert (value - expected).norm() <= BOUND * expected.norm()


def test_the_matrices_do_not_commute_so_that_a_transposed_jacobian_would_show() -> None:
    a, _, b, _ = one(0)
    assert (a @ b - b @ a).norm() > 0.1


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("steps", STEPS)
def test_exact_is_the_jacobian_of_every_step_times_the_gradient_there(
    steps: int, plan: str
) -> None:
    expected = torch.zeros(P, dtype=torch.float64)
    for t in range(T):
        _, _, b, d = one(t)
        adapted, jacobian = adapted_by_hand(t, steps)
        expected += jacobian.T @ b @ (adapted - d)
    assert_close(got(exact, steps, plan), expected)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("steps", STEPS)
def test_first_order_is_the_gradient_at_the_adapted_weights(steps: int, plan: str) -> None:
    expected = torch.zeros(P, dtype=torch.float64)
    for t in range(T):
        _, _, b, d = one(t)
        expected += b @ (adapted_by_hand(t, steps)[0] - d)
    assert_close(got(first_order, steps, plan), expected)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_displacement_is_theta_minus_the_adapted_weights(steps: int, plan: str) -> None:
    expected = sum(THETA - adapted_by_hand(t, steps)[0] for t in range(T))
    assert isinstance(expected, Tensor)
    assert_close(got(displacement, steps, plan), expected)


@pytest.mark.parametrize("plan", PLANS)
def test_displacement_is_zero_without_inner_steps(plan: str) -> None:
    assert not got(displacement, 0, plan).any()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("estimator", [exact, first_order, displacement])
def test_a_block_is_the_sum_of_its_tasks(estimator: object, plan: str) -> None:
    def only(t: int) -> Task:
        rows = [Examples(part.x[t : t + 1], part.y[t : t + 1]) for part in TASKS]
        return Task(*rows)

    parts = sum(got(estimator, 3, plan, only(t)) for t in range(T))
    assert isinstance(parts, Tensor)
    assert_close(got(estimator, 3, plan), parts)


@pytest.mark.parametrize("estimator", [exact, first_order, displacement])
def test_the_plans_agree_on_gradients_losses_and_predictions(estimator: object) -> None:
    algorithm = Quadratic(LR, 3)
    loop, vmap = (
        block_gradient(plan, estimator, algorithm, {"w": THETA}, TASKS, TRAINING) for plan in PLANS
    )
    assert_close(vmap.gradients["w"], loop.gradients["w"])
    assert_close(vmap.losses, loop.losses)
    assert_close(vmap.predictions, loop.predictions)
    _, _, b, d = one(1)
    away = adapted_by_hand(1, 3)[0] - d
    assert_close(loop.losses[1], away @ b @ away / 2)


@pytest.mark.parametrize("plan", PLANS)
def test_a_learned_rate_gets_its_derivative_from_both_exact_and_first_order(plan: str) -> None:
    """One step: dL/dlr = -(A (theta - c))^T B (theta' - d) under either estimator.

    After two steps the second gradient depends on the rate, which first-order ignores.
    """
    params = {"w": THETA, "lr": torch.tensor(LR, dtype=torch.float64)}

    def rate(estimator: object, steps: int) -> Tensor:
        algorithm = Quadratic(LR, steps, learned_lr=True)
        return block_gradient(plan, estimator, algorithm, params, TASKS, TRAINING).gradients["lr"]

    expected = torch.zeros((), dtype=torch.float64)
    for t in range(T):
        a, c, b, d = one(t)
        expected -= (a @ (THETA - c)) @ b @ (adapted_by_hand(t, 1)[0] - d)
    assert_close(rate(exact, 1), expected)
    assert_close(rate(first_order, 1), expected)
    assert (rate(exact, 2) - rate(first_order, 2)).abs() > 1e-3
