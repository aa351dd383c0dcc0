"""How alike two sets of features of the same examples are, whatever their coordinates: CKA.

Centred kernel alignment (Kornblith, Norouzi, Lee & Hinton 2019, arXiv:1905.00414, eqs. 2 and 3).
With the kernel matrices K, L [N, N] of the two sets, and H = I - 1/N,

    CKA = <HKH, HLH> / (|HKH| |HLH|)        in 0..1, 1 if the two are the same up to rotation

where K_ij = x_i . x_j (``linear``) or exp(-|x_i - x_j|^2 / (2 m)) (``rbf``), m the median of the
squared distances of two examples, without a gradient.

Letters: N examples, D dimensions.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Kernel: TypeAlias = Literal["rbf", "linear"]

_SMALLEST = 1e-12  # of squares that are divided by


def kernel_alignment(rows: Tensor, others: Tensor, kernel: Kernel) -> Tensor:
    """CKA of [N, D] and [N, D'], a scalar; 1 for a single example, which cannot differ.

    Args:
        rows: features of N examples.
        others: other features of the same examples.
        kernel: of both.
    """
    if len(rows) < 2:
        return rows.new_ones(())
    one, other = (_centred(_kernel_matrix(each, kernel)) for each in (rows, others))
    squares = (each.square().sum().clamp(min=_SMALLEST) for each in (one, other))
    lengths = [each.sqrt() for each in squares]
    return (one * other).sum() / (lengths[0] * lengths[1])


def _kernel_matrix(rows: Tensor, kernel: Kernel) -> Tensor:
    products = rows @ rows.T
    if kernel == "linear":
        return products
    half = products.diagonal() - products
    squared = half + half.T  # exactly 0 on the diagonal
    above = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    distances = squared.detach()[above[0], above[1]].sort().values
    median = distances[(len(distances) - 1) // 2].clamp(min=_SMALLEST)
    return (squared / (-2 * median)).exp()


def _centred(matrix: Tensor) -> Tensor:
    """HKH of a symmetric matrix [N, N]."""
    means = matrix.mean(0)
    return matrix - means - means[:, None] + means.mean()
