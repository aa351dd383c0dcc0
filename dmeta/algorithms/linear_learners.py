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


def solve_linear(matrix: Tensor, right: Tensor) -> Tensor:
    """X of matrix @ X = right: [..., n, n] and [..., n, m] to [..., n, m].

    Of a matrix that is singular in its precision the result is not finite: no error is raised, and
    the device is not waited for.
    """
    out: Tensor = torch.linalg.solve_ex(matrix, right)[0]
    return out
