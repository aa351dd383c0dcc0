"""What methods that compare embeddings share."""

from __future__ import annotations

import torch
from torch import nn

from dmeta.algorithms.embeddings import (
    class_means,
    cosines,
    num_features,
    one_hot,
    squared_distances,
)
from dmeta.models.network import Network


def test_means_are_of_each_class_and_an_empty_class_is_at_zero() -> None:
    labels = torch.tensor([2, 0, 2])
    assert one_hot(labels, 3, torch.zeros(())).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    means = class_means(torch.tensor([[1.0], [5.0], [3.0]]), labels, 3)
    assert means.tolist() == [[5.0], [0.0], [2.0]]


def test_cosines_and_distances_are_torchs() -> None:
    rng = torch.Generator().manual_seed(0)
    rows, others = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for n in (5, 3))
    want = torch.cosine_similarity(rows[:, None], others, dim=-1)
    torch.testing.assert_close(cosines(rows, others), want, rtol=0, atol=1e-15)
    torch.testing.assert_close(squared_distances(rows, others), torch.cdist(rows, others) ** 2)


def test_a_row_of_zeros_has_cosine_zero_and_a_finite_gradient() -> None:
    rows = torch.zeros(1, 3, requires_grad=True)
    out = cosines(rows, torch.eye(3))
    assert not out.any()
    out.sum().backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


class _Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.table(ids)
        return out


def test_features_are_counted_of_values_and_of_token_ids() -> None:
    assert num_features(Network.of(nn.Linear(2, 7)), (2,)) == 7
    assert num_features(Network.of(nn.Flatten()), (2, 3)) == 6
    assert num_features(Network.of(_Words()), (4,)) == 12
