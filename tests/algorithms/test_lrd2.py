"""LR-D2: the logistic regression's minimum, its first step by hand, and its meta-gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.linear_learners import with_ones
from dmeta.algorithms.lrd2 import LOG_LAMBDA, logistic_weights
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import make_algorithm, problem


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot(labels: list[int], ways: int = 3) -> Tensor:
    return F.one_hot(torch.tensor(labels), ways).double()


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2], [0, 0, 2, 0], [1], [0, 1, 2] * 10])
def test_the_weights_are_the_minimum_for_each_class_against_the_rest(
    labels: list[int], size: float
) -> None:
    """The gradient of the regularised loss is 0, by hand; class 1 may have no example."""
    z, members, strength = size * numbers(len(labels), 4), one_hot(labels), 0.5
    V = logistic_weights(z, members, strength, num_steps=25)
    gradient = z.T @ (torch.sigmoid(z @ V) - members) + strength * V
    assert gradient.abs().max() < 1e-10 * max(1, size)


def test_a_step_is_that_of_reweighted_least_squares() -> None:
    """As the authors' code has it, with diag(s)^-1: twice from 0."""
    z, members, strength = numbers(5, 3), one_hot([0, 1, 2, 1, 0]), 0.3
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for _ in range(2):
        columns = []
        for t, y in zip((z @ expected).T, members.T, strict=True):
            mean = torch.sigmoid(t)
            s = mean * (1 - mean)
            inverse = torch.linalg.inv(z @ z.T + strength * torch.diag(1 / s))
            columns.append(z.T @ inverse @ (t + (y - mean) / s))
        expected = torch.stack(columns, 1)
    assert torch.allclose(logistic_weights(z, members, strength, 2), expected, rtol=1e-12)


def logits(x: Tensor, queries: Tensor, labels: list[int], ways: int, log_lambda: Any) -> Tensor:
    learner = make_algorithm("lrd2", Network.of(nn.Flatten()), F.cross_entropy, newton_steps=4)
    params = {LOG_LAMBDA: torch.as_tensor(log_lambda, dtype=torch.float64)}
    support = Examples(x, torch.tensor(labels))
    state = learner.adapt(params, support, stop_gradient, Stage(training=True, ways=ways))
    out: Tensor = learner.predict(state, queries)
    return out


def test_the_softmax_of_two_ways_is_the_sigmoid_of_one_regression() -> None:
    x, queries, labels = numbers(5, 2), numbers(4, 2, seed=1), [0, 1, 1, 0, 1]
    v = logistic_weights(with_ones(x), one_hot(labels, 2)[:, 1:], 0.7, 4)
    probability = torch.sigmoid(with_ones(queries) @ v)[:, 0]
    out = logits(x, queries, labels, 2, math.log(0.7)).softmax(1)
    assert torch.allclose(out[:, 1], probability, rtol=1e-12)


def test_the_logits_of_more_ways_are_the_scores() -> None:
    x, queries, labels = numbers(5, 2), numbers(4, 2, seed=1), [0, 1, 2, 0, 1]
    scores = with_ones(queries) @ logistic_weights(with_ones(x), one_hot(labels), 0.7, 4)
    assert torch.allclose(logits(x, queries, labels, 3, math.log(0.7)), scores, rtol=1e-12)


@pytest.mark.parametrize(("labels", "ways"), [([0, 1, 2, 1], 3), ([0, 1, 1], 2)])
def test_logits_are_differentiated_exactly(labels: list[int], ways: int) -> None:
    """In support features, query features and log(lambda), twice, by finite differences."""

    def of(x: Tensor, queries: Tensor, log_lambda: Tensor) -> Tensor:
        return logits(x, queries, labels, ways, log_lambda)

    inputs = (numbers(len(labels), 2), numbers(2, 2, seed=1), numbers(seed=2))
    inputs = tuple(t.requires_grad_() for t in inputs)
    assert torch.autograd.gradcheck(of, inputs)
    assert torch.autograd.gradgradcheck(of, inputs)


def test_lambda_is_a_parameter_only_where_it_is_learned() -> None:
    learned = problem("mlp", algorithm="lrd2", regularization=2.0)
    fixed = problem("mlp", algorithm="lrd2", regularization=2.0, learn_lambda=False)
    assert set(learned.params) - set(fixed.params) == {LOG_LAMBDA}
    assert float(learned.params[LOG_LAMBDA].exp()) == pytest.approx(2)


@pytest.mark.parametrize(("key", "rule"), [("regularization", "> 0"), ("newton_steps", ">= 1")])
def test_what_must_be_positive_is_refused_else(key: str, rule: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm.{key} must be {rule}, got 0"):
        problem("mlp", algorithm="lrd2", **{key: 0})
