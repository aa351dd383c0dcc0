"""R2-D2: the ridge regression's minimum, both of its forms, and its meta-gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.linear_learners import with_ones
from dmeta.algorithms.r2d2 import BIAS, LOG_LAMBDA, SCALE, ridge_weights
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import make_algorithm, problem

PLAIN = Network.of(nn.Flatten())
"""The embedding is the input itself."""


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("S", "D"), [(4, 7), (7, 7), (8, 7), (30, 3), (1, 2)])
def test_the_weights_are_the_minimum_of_the_ridge_problem(S: int, D: int) -> None:
    """In either form the gradient of |XV - Y|^2 / S + lambda |V|^2 is 0, by hand."""
    z, y, strength = numbers(S, D), numbers(S, 3, seed=1), 0.3
    V = ridge_weights(z, y, strength)
    gradient = z.T @ (z @ V - y) / S + strength * V
    assert gradient.abs().max() < 1e-13


def adapted(x: Tensor, y: Tensor, ways: int, params: dict[str, Tensor], **options: Any) -> Any:
    learner = make_algorithm("r2d2", PLAIN, F.cross_entropy, **options)
    state = learner.adapt(params, Examples(x, y), stop_gradient, Stage(training=True, ways=ways))
    return learner, state


def scalars(**given: float) -> dict[str, Tensor]:
    return {f"r2d2/{name}": torch.tensor(v, dtype=torch.float64) for name, v in given.items()}


def test_logits_are_scaled_and_shifted_values_of_the_fit_to_one_hot_labels() -> None:
    x, queries = numbers(5, 2), numbers(4, 2, seed=2)
    labels = torch.tensor([2, 0, 0, 2, 2])  # class 1 has no example
    params = scalars(scale=3.0, bias=-0.5, log_lambda=math.log(0.2))
    learner, state = adapted(x, labels, 3, params)
    fit = ridge_weights(with_ones(x), F.one_hot(labels, 3).double(), 0.2)
    assert torch.allclose(state["ridge"], fit, rtol=1e-14)
    assert torch.equal(state["ridge"][:, 1], torch.zeros(3, dtype=torch.float64))
    expected = 3 * (queries @ fit[:2] + fit[2]) - 0.5
    assert torch.allclose(learner.predict(state, queries), expected, rtol=1e-13)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_values_of_a_regression_keep_their_shape(shape: tuple[int, ...]) -> None:
    x, y = numbers(5, 2), numbers(5, *shape, seed=1)
    params = scalars(scale=1.0, bias=0.0)
    learner, state = adapted(x, y, 1, params, regularization=1e-9, learn_lambda=False)
    out = learner.predict(state, x)
    assert out.shape == y.shape
    line = torch.linalg.lstsq(with_ones(x), y.reshape(5, -1)).solution
    assert torch.allclose(out.reshape(5, -1), with_ones(x) @ line, atol=1e-7)


def test_lambda_is_a_parameter_only_where_it_is_learned() -> None:
    learned = problem("mlp", algorithm="r2d2", regularization=2.0, scale=0.5)
    fixed = problem("mlp", algorithm="r2d2", regularization=2.0, scale=0.5, learn_lambda=False)
    assert set(learned.params) - set(fixed.params) == {LOG_LAMBDA}
    assert float(learned.params[LOG_LAMBDA].exp()) == pytest.approx(2)
    assert (float(fixed.params[SCALE]), float(fixed.params[BIAS])) == (0.5, 0)


@pytest.mark.parametrize(("S", "D"), [(4, 3), (9, 3)])
def test_predictions_are_differentiated_exactly(S: int, D: int) -> None:
    """In the features, a, b and lambda, in both forms, by finite differences."""
    labels, queries = torch.arange(S) % 3, numbers(3, D, seed=3)

    def predict(x: Tensor, scale: Tensor, bias: Tensor, log_lambda: Tensor) -> Tensor:
        params = {SCALE: scale, BIAS: bias, LOG_LAMBDA: log_lambda}
        learner, state = adapted(x, labels, 3, params)
        out: Tensor = learner.predict(state, queries)
        return out

    inputs = (numbers(S, D), *scalars(scale=2.0, bias=0.1, log_lambda=-1.0).values())
    inputs = tuple(t.requires_grad_() for t in inputs)
    assert torch.autograd.gradcheck(predict, inputs)
    assert torch.autograd.gradgradcheck(predict, inputs)


@pytest.mark.parametrize(("key", "value"), [("regularization", 0.0), ("scale", -1.0)])
def test_what_must_be_positive_is_refused_else(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"algorithm.{key} must be > 0, got {value}"):
        problem("mlp", algorithm="r2d2", **{key: value})
