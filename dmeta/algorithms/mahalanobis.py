"""Mahalanobis distances to class means: the classifier of Simple CNAPS.

Bateni, Goyal, Masrani, Wood & Sigal 2020, "Improved Few-Shot Visual Classification"
(arXiv:1912.03432), section 4. For the support features of class k, n of the S, with their mean m_k,

    Q_k = n / (n + 1) cov(class k) + 1 / (n + 1) cov(all classes) + I
    distance_k(x) = (f(x) - m_k)' Q_k^-1 (f(x) - m_k)

Covariances are the unbiased ones, of a single example 0. Q_k = I + R'R for 2S rows R, so that
Q_k^-1 = I - R' (I + R R')^-1 R (Woodbury): the linear systems are of the size of the support set
and not of the embedding. As in the authors' code there is no factor of 1/2.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmeta.algorithms.embeddings import class_means, one_hot
from dmeta.algorithms.linear_learners import add_to_diagonal


def class_statistics(embedded: Tensor, labels: Tensor, ways: int) -> tuple[Tensor, Tensor]:
    """Means [W, D], and whitened rows [W, 2S, D]: P_k with Q_k^-1 = I - P_k' P_k.

    Args:
        embedded: [S, D].
        labels: [S] in 0..W-1.
        ways: W.
    """
    members = one_hot(labels, ways, embedded)
    counts = members.sum(0)[:, None, None]
    share = counts / (counts + 1)
    means = class_means(embedded, labels, ways)
    of_class = (embedded - means[:, None]) * members.T[:, :, None]
    of_all = embedded - embedded.mean(0)
    rows = torch.cat(
        [
            of_class * (share / (counts - 1).clamp(min=1)).sqrt(),
            of_all * ((1 - share) / max(len(embedded) - 1, 1)).sqrt(),
        ],
        1,
    )
    gram = add_to_diagonal(rows @ rows.mT, 1.0)
    # Not cholesky, which would wait for the device to say whether it succeeded.
    lower = torch.linalg.cholesky_ex(gram)[0]
    return means, torch.linalg.solve_triangular(lower, rows, upper=False)


def mahalanobis_distances(embedded: Tensor, means: Tensor, whitened: Tensor) -> Tensor:
    """The squares of the distances: [N, D], and `class_statistics`, to [N, W]."""
    apart = embedded[:, None] - means
    along = torch.einsum("nwd,wrd->nwr", apart, whitened)
    return apart.square().sum(-1) - along.square().sum(-1)
