"""Matching networks: attention by hand, LSTMs against torch's, the order of the support set."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms import full_context
from dmeta.algorithms.full_context import BACKWARD, FORWARD, QUERY
from dmeta.bilevel.estimators import exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Params, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import (
    TRAINING,
    first_task,
    flat,
    make_algorithm,
    problem,
    relative_error,
)

D, S, N = 4, 6, 3


def rows(num_rows: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, D, generator=rng, dtype=torch.float64)


def lstm_weights() -> dict[str, Tensor]:
    return full_context.init_lstms(D, 0, torch.zeros((), dtype=torch.float64))


def copy_into(module: nn.Module, suffix: str, weights: Params, lstm: str) -> None:
    """One direction or cell of torch's; it has a second bias, which is set to 0."""
    with torch.no_grad():
        for theirs, ours in (("weight_ih", "inputs"), ("weight_hh", "recurrent")):
            getattr(module, theirs + suffix).copy_(weights[lstm + ours])
        getattr(module, "bias_ih" + suffix).copy_(weights[lstm + "bias"])
        getattr(module, "bias_hh" + suffix).zero_()


def test_the_support_set_is_read_in_both_directions_as_by_torchs_lstm() -> None:
    weights = lstm_weights()
    lstm = nn.LSTM(D, D, bidirectional=True).double()
    copy_into(lstm, "_l0", weights, FORWARD)
    copy_into(lstm, "_l0_reverse", weights, BACKWARD)
    forward, backward = lstm(rows(S)[:, None])[0][:, 0].chunk(2, dim=1)
    got = full_context.embed_support(weights, rows(S))
    torch.testing.assert_close(got, rows(S) + forward + backward, rtol=0, atol=1e-14)


def test_queries_attend_to_the_support_set_as_by_torchs_cell() -> None:
    weights = lstm_weights()
    cell = nn.LSTMCell(2 * D, D).double()
    copy_into(cell, "", weights, QUERY)
    queries, context = rows(N, 1), rows(S, 2)
    h, c = queries, torch.zeros_like(queries)
    for _ in range(3):
        read = torch.softmax(h @ context.T, 1) @ context
        h, c = cell(torch.cat([queries, read], 1), (h, c))
        h = h + queries
    got = full_context.embed_queries(weights, queries, context, steps=3)
    torch.testing.assert_close(got, h, rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 500.0])
def test_cross_entropy_is_that_of_the_attention_paid_to_the_class(scale: float) -> None:
    """Eq. 1, example by example; a scale at which float32's exponential is 0 does no harm."""
    identity = Network.of(nn.Flatten())
    learner = make_algorithm("matching", identity, F.cross_entropy, (D,), scale=scale)
    labels, targets = torch.tensor([0, 2, 0, 2, 2, 0]), torch.tensor([2, 0, 2])
    support = Examples(rows(S).float(), labels)
    adapted = learner.adapt({}, support, stop_gradient, Stage(training=True, ways=4))
    logits = learner.predict(adapted, rows(N, 1).float())
    assert logits.shape == (N, 4)
    assert logits.isfinite().all()
    loss = 0.0
    for query, target in zip(rows(N, 1).tolist(), targets.tolist(), strict=True):
        exponents = []
        for example in rows(S).tolist():
            dot = sum(a * b for a, b in zip(query, example, strict=True))
            exponents.append(scale * dot / math.hypot(*query) / math.hypot(*example))
        top = max(exponents)
        paid = [math.exp(e - top) for e in exponents]
        to_class = sum(p for p, label in zip(paid, labels.tolist(), strict=True) if label == target)
        loss -= math.log(to_class / sum(paid)) / N
    assert float(F.cross_entropy(logits, targets)) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_with_full_context_the_tasks_seed_says_in_which_order_it_reads(training: bool) -> None:
    at = problem("mlp", algorithm="matching", full_context=True)
    task = first_task(at)

    def logits(seed: int) -> Tensor:
        stage = Stage(training=training, ways=3, task_seed=seed)
        adapted = at.algorithm.adapt(at.params, task.support, stop_gradient, stage)
        out: Tensor = at.algorithm.predict(adapted, task.query.x)
        return out

    assert torch.equal(logits(0), logits(0))
    assert relative_error(logits(1), logits(0)) > 1e-6


def test_plans_read_each_task_in_its_own_order() -> None:
    at = problem("mlp", algorithm="matching", full_context=True)
    seeds = torch.tensor([3, 4])
    loop, vmap = (
        block_gradient(plan, exact, at.algorithm, at.params, at.tasks, TRAINING, seeds)
        for plan in ("loop", "vmap")
    )
    assert relative_error(flat(vmap.gradients), flat(loop.gradients)) < 1e-13
    swapped = block_gradient(
        "loop", exact, at.algorithm, at.params, at.tasks, TRAINING, seeds.flip(0)
    )
    assert not torch.equal(swapped.losses, loop.losses)
