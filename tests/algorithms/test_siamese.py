"""Siamese networks: pairs by hand, several shots, the loss of a decision."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.algorithm import with_network
from dmeta.algorithms.embeddings import embed_examples
from dmeta.algorithms.siamese import BIAS, WEIGHT, PairLoss
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Task
from tests.bilevel.problems import TRAINING, first_task, make_algorithm, network, problem


def trained() -> tuple[Any, dict[str, Tensor], Task]:
    """A method whose w and b_0 are not as at first, and a task."""
    at = problem("mlp", algorithm="siamese")
    rng = torch.Generator().manual_seed(5)
    w = torch.randn(at.params[WEIGHT].shape, generator=rng, dtype=torch.float64)
    params = {**at.params, WEIGHT: w, BIAS: torch.tensor(0.3, dtype=torch.float64)}
    return at.algorithm, params, first_task(at)


def probabilities(learner: Any, params: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    """p of every pair, one by one: [len(a), len(b)]."""
    rows, others = (embed_examples(learner.network, params, x) for x in (a, b))
    logits = [[params[WEIGHT] @ (r - o).abs() + params[BIAS] for o in others] for r in rows]
    return torch.stack([torch.stack(row) for row in logits]).sigmoid()


def test_with_one_shot_the_loss_is_the_binary_cross_entropy_of_all_pairs() -> None:
    learner, params, (support, query) = trained()
    one_shot = Examples(support.x[:3], torch.tensor([2, 0, 1]))
    adapted = learner.adapt(params, one_shot, stop_gradient, TRAINING)
    got = learner.loss(learner.predict(adapted, query.x), query.y)
    pairs = probabilities(learner, params, query.x, one_shot.x)
    same = (query.y[:, None] == one_shot.y).double()
    torch.testing.assert_close(got, F.binary_cross_entropy(pairs, same))


def test_logits_are_the_log_odds_of_the_mean_over_a_class() -> None:
    learner, params, (support, query) = trained()
    labels = torch.tensor([0, 1, 1, 0, 1, 0])  # class 2 has no example
    adapted = learner.adapt(params, Examples(support.x, labels), stop_gradient, TRAINING)
    logits = learner.predict(adapted, query.x)
    pairs = probabilities(learner, params, query.x, support.x)
    means = torch.stack([pairs[:, labels == w].mean(1) for w in (0, 1)], dim=1)
    torch.testing.assert_close(logits[:, :2], torch.logit(means))
    assert (logits[:, 2] < -1e8).all()


def test_pairs_that_are_very_far_apart_have_finite_odds_and_gradients() -> None:
    learner, params, (support, query) = trained()
    far = {**params, WEIGHT: (1e4 * params[WEIGHT]).requires_grad_()}
    logits = learner.predict(learner.adapt(far, support, stop_gradient, TRAINING), query.x)
    learner.loss(logits, query.y).backward()
    assert logits.isfinite().all()
    assert far[WEIGHT].grad is not None
    assert far[WEIGHT].grad.isfinite().all()


def test_the_loss_that_is_chosen_is_of_the_decisions() -> None:
    made, shape = network("mlp", None)

    def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=0.2)

    learner = make_algorithm("siamese", made, smoothed, shape)
    odds, labels = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([0, 1])
    targets = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    want = F.binary_cross_entropy_with_logits(odds, targets)
    torch.testing.assert_close(learner.loss(odds, labels), want)


def test_another_network_keeps_the_loss() -> None:
    learner, _, _ = trained()
    again = with_network(learner, learner.network)
    assert again.loss == learner.loss
    assert not isinstance(dataclasses.replace(learner).loss.loss, PairLoss)
