"""Self-attention over a set of embeddings: FEAT's transformation, as a function of its weights.

Ye et al. 2020 (arXiv:1812.03664), section 3.3, as in the authors' code: one head of D dimensions,

    A = softmax(X Q' (X K')' / sqrt(D)),   LayerNorm(X + dropout(dropout(A) X V' O' + o))

Permuting the rows of X permutes the result. Knows no network.

Letters: N rows, D dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.bilevel.types import Params
from dmeta.randomness import Noise

QUERY, KEY, VALUE = "feat/query", "feat/key", "feat/value"
OUTPUT, OUTPUT_BIAS = "feat/output/weight", "feat/output/bias"
NORM, NORM_BIAS = "feat/norm/weight", "feat/norm/bias"
"""Names of the weights: four of [D, D] as in torch's linear layers, three of [D]."""

_NORM_EPS = 1e-5  # torch's
_MASKED = -1e9  # its exponential is 0


def init_attention(num_features: int, seed: int, like: Tensor) -> dict[str, Tensor]:
    """Matrices are Glorot-normal (Glorot & Bengio 2010), biases 0, the scale of the norm 1.

    Args:
        num_features: D.
        seed: of the draw.
        like: has their dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = num_features, num_features
    std = math.sqrt(2 / sum(shape))
    matrices = {
        name: torch.empty(shape).normal_(0, std, generator=generator).to(like)
        for name in (QUERY, KEY, VALUE, OUTPUT)
    }
    zeros = like.new_zeros(num_features)
    return {**matrices, OUTPUT_BIAS: zeros, NORM: zeros + 1, NORM_BIAS: zeros.clone()}


def attend(
    weights: Params,
    rows: Tensor,
    noise: Noise,
    dropout: tuple[float, float],
    name: str,
    together: Tensor | None = None,
) -> Tensor:
    """Each row [N, D] in the context of the others: [N, D].

    Args:
        weights: as from `init_attention`.
        rows: the set.
        noise: of the dropout.
        dropout: probabilities that an attention weight, and that an element of what is added to the
            rows, is dropped.
        name: of the draw.
        together: [N, N], 1 where a row attends to the other, else 0; None: to all.
    """
    queries, keys, values = (F.linear(rows, weights[part]) for part in (QUERY, KEY, VALUE))
    scores = queries @ keys.T / math.sqrt(rows.shape[1])
    if together is not None:
        scores = scores + _MASKED * (1 - together)
    attention = noise.dropout(scores.softmax(1), dropout[0], f"{name}/attention")
    added = F.linear(attention @ values, weights[OUTPUT], weights[OUTPUT_BIAS])
    out = rows + noise.dropout(added, dropout[1], f"{name}/output")
    # Not F.layer_norm, whose second derivatives under vmap are wrong.
    centered = out - out.mean(1, keepdim=True)
    scaled = centered * torch.rsqrt(centered.square().mean(1, keepdim=True) + _NORM_EPS)
    return scaled * weights[NORM] + weights[NORM_BIAS]
