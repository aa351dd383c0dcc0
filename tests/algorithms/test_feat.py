"""FEAT: its attention against torch's, its regulariser class by class, its noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms import set_attention
from dmeta.algorithms.embeddings import embed_examples
from dmeta.algorithms.set_attention import KEY, OUTPUT, QUERY, VALUE
from dmeta.bilevel.estimators import exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import unrolled
from dmeta.bilevel.types import Outcome, Stage
from dmeta.randomness import Noise
from tests.bilevel.problems import TRAINING, first_task, flat, problem, relative_error

N, D, W = 5, 4, 3
NO_DROPOUT = (0.0, 0.0)
SILENT = {"dropout": 0.0, "attention_dropout": 0.0}


def rows() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights() -> dict[str, Tensor]:
    """None of them as at first, when biases do nothing."""
    rng = torch.Generator().manual_seed(2)
    first = set_attention.init_attention(D, 0, torch.zeros((), dtype=torch.float64))
    return {
        name: w + 0.1 * torch.randn(w.shape, generator=rng, dtype=w.dtype)
        for name, w in first.items()
    }


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_torchs_attention_of_one_head_and_layer_norm(masked: bool) -> None:
    made = weights()
    attention = nn.MultiheadAttention(D, 1, bias=True).double()
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([made[QUERY], made[KEY], made[VALUE]]))
        attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(made[OUTPUT])
        attention.out_proj.bias.copy_(made["feat/output/bias"])
        labels = torch.tensor([0, 1, 0, 1, 1])
        together = (labels[:, None] == labels).double() if masked else None
        mask = None if together is None else together == 0
        added = attention(rows(), rows(), rows(), attn_mask=mask, need_weights=False)[0]
    norm = made["feat/norm/weight"], made["feat/norm/bias"]
    want = F.layer_norm(rows() + added, (D,), *norm)
    got = set_attention.attend(made, rows(), Noise(None), NO_DROPOUT, "x", together)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


def test_the_regulariser_adapts_each_class_apart() -> None:
    at = problem("mlp", algorithm="feat", balance=2.0, regulariser_temperature=3.0, **SILENT)
    (x, y), _ = first_task(at)
    outcome = at.algorithm.adapt(at.params, first_task(at).support, unrolled, TRAINING)
    assert isinstance(outcome, Outcome)
    embedded = embed_examples(at.algorithm.network, at.params, x)
    centers = [
        set_attention.attend(at.params, embedded[y == w], Noise(None), NO_DROPOUT, "").mean(0)
        for w in range(W)
    ]
    logits = -(torch.cdist(embedded, torch.stack(centers)) ** 2) / 3
    torch.testing.assert_close(outcome.penalty, 2 * F.cross_entropy(logits, y))


def test_without_balance_there_is_no_regulariser() -> None:
    at = problem("mlp", algorithm="feat", balance=0.0)
    found = at.algorithm.adapt(at.params, first_task(at).support, unrolled, TRAINING)
    assert not isinstance(found, Outcome)


def test_the_temperature_divides_the_squared_distances() -> None:
    def logits(temperature: float) -> Tensor:
        at = problem("mlp", algorithm="feat", temperature=temperature)
        stage = Stage(training=False, ways=W)
        adapted = at.algorithm.adapt(at.params, first_task(at).support, unrolled, stage)
        out: Tensor = at.algorithm.predict(adapted, first_task(at).query.x)
        return out

    torch.testing.assert_close(logits(2.0), 4 * logits(8.0))


def test_training_drops_what_its_seed_says_and_evaluation_nothing() -> None:
    at = problem("mlp", algorithm="feat")
    task = first_task(at)

    def penalty_and_prototypes(training: bool, seed: int, **changes: Any) -> Tensor:
        learner = problem("mlp", algorithm="feat", **changes).algorithm
        stage = Stage(training=training, ways=W, task_seed=seed)
        found = learner.adapt(at.params, task.support, unrolled, stage)
        state = found.states[-1] if isinstance(found, Outcome) else found
        out: Tensor = state["prototypes"]
        return out

    of = penalty_and_prototypes
    assert torch.equal(of(True, 0), of(True, 0))
    assert not torch.equal(of(True, 0), of(True, 1))
    assert not torch.equal(of(True, 0), of(True, 0, dropout=0.0))
    assert not torch.equal(of(True, 0), of(True, 0, attention_dropout=0.0))
    assert torch.equal(of(False, 0), of(False, 1))
    assert torch.equal(of(False, 0), of(False, 0, **SILENT))


def test_plans_drop_the_same() -> None:
    at = problem("mlp", algorithm="feat")
    seeds = torch.tensor([3, 4])
    loop, vmap = (
        block_gradient(plan, exact, at.algorithm, at.params, at.tasks, TRAINING, seeds)
        for plan in ("loop", "vmap")
    )
    assert relative_error(flat(vmap.gradients), flat(loop.gradients)) < 1e-13
