"""What base learners that are linear in an embedding share.

Letters: N examples, D dimensions of the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def with_ones(features: Tensor) -> Tensor:
    """[N, D] -> [N, D + 1]: a last column of 1, whose weight is the bias."""
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def add_to_diagonal(matrix: Tensor, value: Tensor | float) -> Tensor:
    """[..., n, n] + value * I."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return matrix + value * identity
