"""Base learners against solvers of others, on features of scikit-learn's data sets, in float64.

Skipped where these packages are not installed: they are no dependencies, of the tests either.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.linear_learners import with_ones
from dmeta.algorithms.lrd2 import logistic_weights
from dmeta.algorithms.multiclass_svm import dual_solution
from dmeta.algorithms.r2d2 import ridge_weights
from dmeta.algorithms.rfs import logistic_regression

datasets: Any = pytest.importorskip("sklearn.datasets")
linear_model: Any = pytest.importorskip("sklearn.linear_model")


def drawn(name: str, S: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """S examples: standardised features [S, D], labels [S], number of classes."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)
    rows = np.random.default_rng(seed).choice(len(x), S, replace=False)
    return torch.as_tensor(x[rows]), torch.as_tensor(y[rows]), int(y.max()) + 1


@pytest.mark.parametrize(
    ("name", "S"), [("iris", 20), ("wine", 10), ("digits", 30), ("digits", 100)]
)
@pytest.mark.parametrize("strength", [0.01, 1.0, 50.0])
def test_ridge_weights_are_those_of_scikit_learn(name: str, S: int, strength: float) -> None:
    x, y, ways = drawn(name, S, seed=0)
    z, targets = with_ones(x), F.one_hot(y, ways).double()
    # Its objective is the sum over the examples, ours is their mean.
    ridge = linear_model.Ridge(alpha=S * strength, fit_intercept=False, solver="cholesky")
    expected = torch.as_tensor(ridge.fit(z.numpy(), targets.numpy()).coef_.T)
    error = (ridge_weights(z, targets, strength) - expected).norm() / expected.norm()
    print(f"{name} S={S} lambda={strength}: relative difference {float(error):.1e}")
    assert error < 1e-12


@pytest.mark.parametrize(("name", "S"), [("iris", 15), ("wine", 25), ("digits", 50)])
@pytest.mark.parametrize("cost", [0.1, 1.0])
def test_the_dual_of_the_svm_has_the_optimum_of_cvxpy(name: str, S: int, cost: float) -> None:
    cvxpy: Any = pytest.importorskip("cvxpy")
    x, y, ways = drawn(name, S, seed=1)
    gram, members = x @ x.T, F.one_hot(y, ways).double()
    root, labels = np.linalg.cholesky(gram.numpy() + np.eye(S)), members.numpy()
    alpha = cvxpy.Variable((S, ways))
    objective = cvxpy.sum_squares(root.T @ alpha) / 2 - cvxpy.sum(cvxpy.multiply(alpha, labels))
    bounds = [alpha <= cost * labels, cvxpy.sum(alpha, axis=1) == 0]
    expected = cvxpy.Problem(cvxpy.Minimize(objective), bounds).solve(
        solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11
    )
    found = dual_solution(gram, members, cost, num_steps=15).numpy()
    value = float(((root.T @ found) ** 2).sum() / 2 - (found * labels).sum())
    error = np.abs(found - alpha.value).max() / np.abs(alpha.value).max()
    print(f"{name} S={S} C={cost}: objective {value / expected - 1:.1e}, alpha {error:.1e}")
    assert abs(value / expected - 1) < 1e-7
    assert error < 1e-4


@pytest.mark.parametrize(("name", "S"), [("iris", 20), ("wine", 25), ("digits", 40)])
@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
def test_logistic_weights_are_those_of_scikit_learn(name: str, S: int, strength: float) -> None:
    x, y, ways = drawn(name, S, seed=2)
    z, members = with_ones(x), F.one_hot(y, ways).double()
    found = logistic_weights(z, members, strength, num_steps=10)
    for w in range(ways):
        regression = linear_model.LogisticRegression(
            C=1 / strength, fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=1000
        )
        expected = torch.as_tensor(regression.fit(z.numpy(), members[:, w].numpy()).coef_[0])
        error = (found[:, w] - expected).norm() / expected.norm()
        print(f"{name} S={S} lambda={strength} class {w}: relative difference {float(error):.1e}")
        assert error < 1e-6


@pytest.mark.parametrize("name", ["iris", "wine", "digits"])
@pytest.mark.parametrize("S", [15, 60])
@pytest.mark.parametrize("c", [0.1, 1.0])
def test_multinomial_logistic_regression_is_that_of_scikit_learn(
    name: str, S: int, c: float
) -> None:
    x, y, _ = drawn(name, S, seed=3)
    z, labels = F.normalize(x), y.unique(return_inverse=True)[1]  # of the classes that are there
    members = F.one_hot(labels).double()
    found = logistic_regression(z, members, c, num_steps=200)
    peer = linear_model.LogisticRegression(C=c, solver="newton-cg", tol=1e-12, max_iter=10_000)
    peer.fit(z.numpy(), y.numpy())
    error = 0.0
    for got, expected in ((found.weight, peer.coef_), (found.bias, peer.intercept_)):
        there = torch.as_tensor(expected)
        error = max(error, float((got - there).norm() / there.norm()))
    print(f"{name} S={S} C={c}: relative difference {error:.1e}")
    assert error < 1e-6
