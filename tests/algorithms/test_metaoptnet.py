"""MetaOptNet: the duals' optima, and implicit gradients by finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.metaoptnet import SCALE
from dmeta.algorithms.multiclass_svm import dual_solution
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import make_algorithm, problem, relative_error

COST, STEPS = 0.1, 15
CASES = {
    "balanced": [0, 1, 2, 0, 1, 2],
    "unequal": [0, 0, 0, 0, 2, 1],
    "a class without examples": [0, 2, 2, 0, 2],
    "one example": [1],
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dual_problem(labels: list[int], size: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """K [S, S] of features of about this size, and Y [S, 3]."""
    x = size * numbers(len(labels), 4, seed=seed)
    return x @ x.T, F.one_hot(torch.tensor(labels), 3).double()


def objective(alpha: np.ndarray, gram: Tensor, members: Tensor) -> float:
    quadratic = gram.numpy() + np.eye(len(gram))
    return float((alpha * (quadratic @ alpha)).sum() / 2 - (alpha * members.numpy()).sum())


def by_scipy(gram: Tensor, members: Tensor) -> np.ndarray:
    S, W = members.shape
    quadratic, labels = gram.numpy() + np.eye(S), members.numpy()
    sums = np.kron(np.eye(S), np.ones(W))
    found = scipy.optimize.minimize(
        lambda a: objective(a.reshape(S, W), gram, members),
        np.zeros(S * W),
        jac=lambda a: (quadratic @ a.reshape(S, W) - labels).ravel(),
        bounds=[(None, COST * y) for y in labels.ravel()],
        constraints={"type": "eq", "fun": lambda a: sums @ a, "jac": lambda _: sums},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    out: np.ndarray = found.x.reshape(S, W)
    return out


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("labels", CASES.values(), ids=CASES)
def test_the_dual_of_the_svm_is_solved_as_by_scipy(labels: list[int], size: float) -> None:
    gram, members = dual_problem(labels, size)
    alpha, expected = dual_solution(gram, members, COST, STEPS).numpy(), by_scipy(gram, members)
    assert objective(alpha, gram, members) <= objective(expected, gram, members) + 1e-10
    assert np.abs(alpha - expected).max() < 1e-6
    assert np.abs(alpha.sum(1)).max() < 1e-13
    assert (COST * members.numpy() - alpha).min() >= 0


def test_a_single_class_leaves_the_dual_at_zero() -> None:
    gram, _ = dual_problem([0, 0], 1.0)
    alpha = dual_solution(gram, torch.ones(2, 1).double(), COST, STEPS)
    assert alpha.abs().max() < 1e-15


def test_large_float32_features_give_the_solution_of_float64() -> None:
    gram, members = dual_problem([0, 1, 2] * 5, 30.0)
    exact = dual_solution(gram, members, COST, 40)
    single = dual_solution(gram.float(), members.float(), COST, 40)
    assert single.dtype == torch.float32
    assert relative_error(single.double(), exact) < 1e-3


def logits(
    head: str, x: Tensor, queries: Tensor, labels: list[int], scale: Tensor | float = 1.0
) -> Tensor:
    learner = make_algorithm("metaoptnet", Network.of(nn.Flatten()), F.cross_entropy, head=head)
    params = {SCALE: torch.as_tensor(scale, dtype=torch.float64)}
    support = Examples(x, torch.tensor(labels))
    state: Any = learner.adapt(params, support, stop_gradient, Stage(training=True, ways=3))
    out: Tensor = learner.predict(state, queries)
    return out


@pytest.mark.parametrize("labels", CASES.values(), ids=CASES)
@pytest.mark.parametrize("head", ["svm", "ridge"])
def test_logits_are_differentiated_exactly(head: str, labels: list[int]) -> None:
    """In support features, query features and scale, by central differences."""
    inputs = [
        numbers(len(labels), 4),
        numbers(3, 4, seed=1),
        torch.tensor(2.0, dtype=torch.float64),
    ]
    for number, given in enumerate(inputs):

        def of_one(t: Tensor, number: int = number) -> Tensor:
            x, queries, scale = (t if i == number else other for i, other in enumerate(inputs))
            return logits(head, x, queries, labels, scale)

        jacobian = torch.autograd.functional.jacobian(of_one, given)
        columns = []
        for unit in torch.eye(given.numel(), dtype=torch.float64):
            step = 1e-5 * unit.reshape(given.shape)
            columns.append((of_one(given + step) - of_one(given - step)) / 2e-5)
        differences = torch.stack(columns, -1).reshape(jacobian.shape)
        assert relative_error(jacobian, differences) < 1e-6


def test_ridge_logits_by_hand() -> None:
    x, queries, labels = numbers(5, 4), numbers(3, 4, seed=1), [0, 1, 2, 0, 1]
    members = F.one_hot(torch.tensor(labels), 3).double()
    alpha = 2 * torch.linalg.inv(x @ x.T + 50 * torch.eye(5)) @ members
    expected = 3 * queries @ x.T @ alpha
    assert torch.allclose(logits("ridge", x, queries, labels, 3.0), expected, rtol=1e-12)


def test_the_scale_starts_at_one_and_is_learned() -> None:
    assert float(problem("mlp", algorithm="metaoptnet").params[SCALE]) == 1


@pytest.mark.parametrize("key", ["svm_cost", "ridge_strength", "scale"])
def test_what_must_be_positive_is_refused_else(key: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm.{key} must be > 0, got 0"):
        problem("mlp", algorithm="metaoptnet", **{key: 0.0})
