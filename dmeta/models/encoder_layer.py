"""The layer of a transformer encoder: self-attention and a small perceptron at each position.

Vaswani et al. 2017 (arXiv:1706.03762), section 3.1 and eq. 1; with the normalisation in front of
both parts (``norm_first``) Xiong et al. 2020 (arXiv:2002.04745). It computes what
`torch.nn.TransformerEncoderLayer` does, with elementary operations: these have second derivatives,
are mapped over tasks, and the dropout of attention weights is a function of the task's seed.

Letters: N examples, L positions, D dimensions, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.models.sizes import check_depth, check_rates, check_sizes

_MASKED = -1e9
"""Logit of a position that is not attended to; not infinite: a row of them has a softmax."""


class EncoderLayer(nn.Module):
    """[N, L, D] -> [N, L, D].

    Args:
        dimensions: D.
        heads: H; must divide D.
        hidden: width of the perceptron.
        dropout: rate of attention weights, of the perceptron's units and of both parts' outputs.
        norm_first: normalise the input of each part rather than its sum with the shortcut.
        eps: of the layer-norms.
        gelu: GELU rather than ReLU in the perceptron.
    """

    def __init__(
        self,
        dimensions: int,
        heads: int,
        hidden: int,
        dropout: float,
        *,
        norm_first: bool,
        eps: float = 1e-5,
        gelu: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.rate, self.norm_first, self.gelu = heads, dropout, norm_first, gelu
        self.norm1, self.norm2 = nn.LayerNorm(dimensions, eps), nn.LayerNorm(dimensions, eps)
        self.inputs, self.out = nn.Linear(dimensions, 3 * dimensions), _linear(dimensions)
        self.linear1 = nn.Linear(dimensions, hidden)
        self.linear2 = nn.Linear(hidden, dimensions)
        # As nn.MultiheadAttention starts.
        nn.init.xavier_uniform_(self.inputs.weight)
        nn.init.zeros_(self.inputs.bias)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """[N, L, D] -> [N, L, D].

        Args:
            x: the inputs.
            padding: [N, L] bool, true for positions that no other attends to; None: there are none.
        """
        if self.norm_first:
            x = x + self._attended(self.norm1(x), padding)
            return x + self._transformed(self.norm2(x))
        x = self.norm1(x + self._attended(x, padding))
        out: Tensor = self.norm2(x + self._transformed(x))
        return out

    def _attended(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Eq. 1, for H heads of D / H dimensions."""
        shape = (*x.shape[:2], 3, self.heads, -1)
        query, key, value = self.inputs(x).reshape(shape).permute(2, 0, 3, 1, 4)  # [N, H, L, D / H]
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        if padding is not None:
            logits = logits.masked_fill(padding[:, None, None], _MASKED)
        joined = (self._dropped(logits.softmax(-1)) @ value).transpose(1, 2).flatten(2)
        return self._dropped(self.out(joined))

    def _transformed(self, x: Tensor) -> Tensor:
        inner = self.linear1(x)
        active = F.gelu(inner) if self.gelu else torch.relu(inner)
        return self._dropped(self.linear2(self._dropped(active)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate, self.training)


def _linear(dimensions: int) -> nn.Linear:
    made = nn.Linear(dimensions, dimensions)
    nn.init.zeros_(made.bias)
    return made


def check_encoder(width: int, depth: int, heads: int, hidden: int, dropout: float) -> None:
    """Raises ValueError if an encoder cannot be of these sizes.

    Args:
        width: D.
        depth: layers.
        heads: H.
        hidden: width of the perceptrons.
        dropout: rate.
    """
    check_sizes(width=(width, 1), depth=(depth, 1), heads=(heads, 1), hidden=(hidden, 1))
    check_depth(depth=depth)
    check_rates(dropout=dropout)
    if width % heads:
        raise ValueError(
            f"model.width must be a multiple of model.heads={heads}, got {width}; change either"
        )
