"""Every estimator on quadratics, where the meta-gradient has a closed form.

Task t: support loss (w - c_t)^T A_t (w - c_t) / 2, query loss (w - d_t)^T B_t (w - d_t) / 2. Then
theta' - c = M^K (theta - c) with M = I - lr A, and dL/dtheta = (M^K)^T B (theta' - d).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from dmeta.bilevel.chain import Chain
from dmeta.bilevel.estimators import (
    Checkpointed,
    FiniteDifference,
    Truncated,
    displacement,
    exact,
    first_order,
)
from dmeta.bilevel.implicit import Implicit
from dmeta.bilevel.inner import InnerProblem
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.transforms.rate import Rate
from dmeta.bilevel.types import Adapted, Examples, Params, Stage, Task
from tests.bilevel.problems import TRAINING
from tests.grids import covering

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
    proximal: float = 0.0

    @staticmethod
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        """Prediction [P, P + 1]: the matrix beside the weights."""
        away = prediction[:, -1] - target
        return away @ prediction[:, :-1] @ away / 2

    def adapt(self, meta_params: Params, support: Examples, solve: Solver, stage: Stage) -> Adapted:
        rate = Rate(self.lr, "per_tensor" if self.learned_lr else None)
        learned = {"inner_lr/w": meta_params["lr"]} if self.learned_lr else {}

        def objective(w: Params, step: int) -> Tensor:
            away = (w["w"] - meta_params["w"]).square().sum()
            return self.loss(self.predict(w, support.x), support.y) + self.proximal / 2 * away

        return solve(
            InnerProblem(
                objective=objective,
                start={"w": meta_params["w"]},
                optimizer=Chain((rate,), learned),
                num_steps=self.num_steps,
                finish=lambda w, _: w,
                depends_on_meta=self.proximal > 0,
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


def got(
    estimator: object, steps: int, plan: str, tasks: Task = TASKS, proximal: float = 0.0
) -> Tensor:
    algorithm = Quadratic(LR, steps, proximal=proximal)
    return block_gradient(plan, estimator, algorithm, {"w": THETA}, tasks, TRAINING).gradients["w"]


def assert_close(value: Tensor, expected: Tensor) -> None:
    assert (value - expected).norm() <= BOUND * expected.norm()


def test_the_matrices_do_not_commute_so_that_a_transposed_jacobian_would_show() -> None:
    a, _, b, _ = one(0)
    assert (a @ b - b @ a).norm() > 0.1


@pytest.mark.parametrize(
    ("estimator", "steps", "plan"),
    covering(product((exact, Checkpointed(), Truncated(5)), STEPS, PLANS)),
)
def test_exact_is_the_jacobian_of_every_step_times_the_gradient_there(
    estimator: object, steps: int, plan: str
) -> None:
    expected = torch.zeros(P, dtype=torch.float64)
    for t in range(T):
        _, _, b, d = one(t)
        adapted, jacobian = adapted_by_hand(t, steps)
        expected += jacobian.T @ b @ (adapted - d)
    assert_close(got(estimator, steps, plan), expected)


@pytest.mark.parametrize(
    ("estimator", "steps", "plan"), covering(product((first_order, Truncated(0)), STEPS, PLANS))
)
def test_first_order_is_the_gradient_at_the_adapted_weights(
    estimator: object, steps: int, plan: str
) -> None:
    expected = torch.zeros(P, dtype=torch.float64)
    for t in range(T):
        _, _, b, d = one(t)
        expected += b @ (adapted_by_hand(t, steps)[0] - d)
    assert_close(got(estimator, steps, plan), expected)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("last", [1, 2, 4])
def test_truncated_is_the_jacobian_of_the_last_steps_alone(last: int, plan: str) -> None:
    expected = torch.zeros(P, dtype=torch.float64)
    for t in range(T):
        a, _, b, d = one(t)
        jacobian = power(torch.eye(P, dtype=torch.float64) - LR * a, last)
        expected += jacobian.T @ b @ (adapted_by_hand(t, 5)[0] - d)
    assert_close(got(Truncated(last), 5, plan), expected)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("relative_step", [1.0, 1e-3])
def test_finite_differences_of_a_quadratic_are_exact(relative_step: float, plan: str) -> None:
    exactly = got(exact, 5, plan)
    error = (got(FiniteDifference(relative_step), 5, plan) - exactly).norm() / exactly.norm()
    assert error < 1e-11


def implicit_by_hand(t: int, steps: int, proximal: float) -> Tensor:
    """lambda (A + lambda I)^-1 B (w_K - d) (Rajeswaran et al. 2019, eq. 6)."""
    a, c, b, d = one(t)
    hessian = a + proximal * torch.eye(P, dtype=torch.float64)
    w = THETA
    for _ in range(steps):
        w = w - LR * (a @ (w - c) + proximal * (w - THETA))
    return proximal * torch.linalg.solve(hessian, b @ (w - d))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "steps", "plan"),
    covering(
        product(
            (
                Implicit(iterations=P, tolerance=0.0),
                Implicit(solver="neumann", iterations=400, scale=0.2),
            ),
            STEPS,
            PLANS,
        )
    ),
)
def test_implicit_solves_with_the_hessian_at_the_last_iterate(
    estimator: object, steps: int, plan: str
) -> None:
    expected = sum(implicit_by_hand(t, steps, 1.5) for t in range(T))
    assert isinstance(expected, Tensor)
    error = (got(estimator, steps, plan, proximal=1.5) - expected).norm() / expected.norm()
    assert error < 1e-10


def test_implicit_is_what_long_unrolling_tends_to() -> None:
    implicit = got(Implicit(iterations=P, tolerance=0.0), 200, "vmap", proximal=1.5)
    errors = []
    for steps in (2, 10, 200):
        unrolled = got(exact, steps, "vmap", proximal=1.5)
        errors.append(float((unrolled - implicit).norm() / implicit.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


def test_damping_is_added_to_the_hessian() -> None:
    damped = got(Implicit(iterations=P, tolerance=0.0, damping=0.7), 3, "loop", proximal=1.5)
    expected = torch.zeros(P, dtype=torch.float64)
    for t in range(T):
        a, _, _, _ = one(t)
        eye = torch.eye(P, dtype=torch.float64)
        right = torch.linalg.solve(torch.linalg.inv(a + 1.5 * eye), implicit_by_hand(t, 3, 1.5))
        expected += torch.linalg.solve(a + 2.2 * eye, right)
    assert_close(damped, expected)


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_implicit_reports_how_well_the_system_is_solved(solver: Any, plan: str) -> None:
    algorithm = Quadratic(LR, 3, proximal=1.5)
    residuals = []
    for iterations in (1, 2, 400):
        estimator = Implicit(solver, iterations, tolerance=0.0, scale=0.2)
        result = block_gradient(plan, estimator, algorithm, {"w": THETA}, TASKS, TRAINING)
        assert result.notes["residual"].shape == (T,)
        residuals.append(float(result.notes["residual"].max()))
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[0] > 0.01
    assert residuals[-1] < 1e-10


def test_implicit_is_refused_where_the_objective_has_no_meta_parameters() -> None:
    with pytest.raises(ValueError, match=r"depends on the meta-parameters.*algorithm\.inner_prox"):
        got(Implicit(), 2, "loop")


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Truncated(-1), "last"),
        (lambda: Truncated(window=0), "window"),
        (lambda: FiniteDifference(0.0), "relative_step"),
        (lambda: Implicit(iterations=0), "iterations"),
        (lambda: Implicit(damping=-1.0), "damping"),
        (lambda: Implicit(tolerance=-1.0), "tolerance"),
        (lambda: Implicit(scale=0.0), "scale"),
    ],
)
def test_impossible_settings_of_a_gradient_are_refused(make: Any, key: str) -> None:
    with pytest.raises(ValueError, match=rf"gradient\.{key} must be"):
        make()


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
@pytest.mark.parametrize("estimator", [exact, first_order, displacement, Checkpointed()])
def test_a_block_is_the_sum_of_its_tasks(estimator: object, plan: str) -> None:
    def only(t: int) -> Task:
        rows = [Examples(part.x[t : t + 1], part.y[t : t + 1]) for part in TASKS]
        return Task(*rows)

    parts = sum(got(estimator, 3, plan, only(t)) for t in range(T))
    assert isinstance(parts, Tensor)
    assert_close(got(estimator, 3, plan), parts)


@pytest.mark.parametrize(
    "estimator", [exact, first_order, displacement, Checkpointed(), Truncated(2)]
)
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
