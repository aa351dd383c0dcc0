"""Transformer encoder on sequences.

Vaswani et al. 2017 (arXiv:1706.03762), sections 3.1 to 3.5: an encoder with fixed sine and cosine
positions; normalisation in front of each part: Xiong et al. 2020 (arXiv:2002.04745).

Differs from the paper: there is no decoder, and the vectors of token ids are not scaled by the
square root of their dimensions.

Letters: N examples, L positions, C channels, D dimensions.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.models.encoder_layer import EncoderLayer, check_encoder
from dmeta.models.sequences import (
    SequenceInput,
    check_sequence,
    last_position,
    mean_over_positions,
)

_LONGEST_WAVE = 10_000


class TransformerEncoder(nn.Module):
    """A sequence as one vector: [N, L], [N, L, C] -> [N, D]."""

    def __init__(
        self,
        inputs: SequenceInput,
        width: int,
        layers: list[EncoderLayer],
        length: int,
        dropout: float,
        pool: str,
    ) -> None:
        super().__init__()
        self.inputs, self.layers = inputs, nn.ModuleList(layers)
        self.pool, self.rate = pool, dropout
        is_numbers = inputs.embedding is None
        self.projection = nn.Linear(inputs.channels, width) if is_numbers else nn.Identity()
        self.norm = nn.LayerNorm(width) if layers[0].norm_first else nn.Identity()
        self.register_buffer("positions", sine_positions(length, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L] or [N, L, C] -> [N, D]."""
        numbers, padding = self.inputs(x)
        projected = self.projection(numbers)
        out = projected + self.positions.to(projected.dtype)
        out = F.dropout(out, self.rate, self.training)
        for layer in self.layers:
            out = layer(out, padding)
        out = self.norm(out)
        return (last_position if self.pool == "last" else mean_over_positions)(out, padding)


def sine_positions(length: int, width: int) -> Tensor:
    """Section 3.5: [L, D], sines at even places, cosines at odd ones."""
    rates = torch.exp(-math.log(_LONGEST_WAVE) / width * torch.arange(0, width, 2))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def transformer(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    hidden: int = 128,
    dropout: float = 0.0,
    norm_first: bool = True,
    pool: Literal["mean", "last"] = "mean",
    num_tokens: int | None = None,
    padding_id: int | None = None,
) -> nn.Module:
    """Layers of self-attention on a sequence, the mean over positions, a linear layer.

    Args:
        input_shape: (length, channels) or (length,) of a series of numbers; (length,) of token ids.
        num_outputs: width of the last layer; None: no such layer, an embedding.
        width: dimensions of a position.
        depth: layers of the encoder.
        heads: of the attention; must divide `width`.
        hidden: width of the perceptron of each layer.
        dropout: rate of the encoder's dropout, in training.
        norm_first: normalise in front of each part of a layer, which trains without a warm-up, or
            after it, as in the paper.
        pool: what the last layer sees: the ``mean`` over positions, or the ``last`` one.
        num_tokens: number of token ids; None: the sequences are series of numbers.
        padding_id: token id of padding, which nothing attends to; None: there is none.

    Raises:
        ValueError: the input is no sequence; the sizes do not fit.
    """
    check_encoder(width, depth, heads, hidden, dropout)
    check_sequence("transformer", input_shape, num_tokens, padding_id)
    inputs = SequenceInput(input_shape, num_tokens, padding_id, width)
    layers = [
        EncoderLayer(width, heads, hidden, dropout, norm_first=norm_first) for _ in range(depth)
    ]
    named: OrderedDict[str, nn.Module] = OrderedDict()
    named["encoder"] = TransformerEncoder(inputs, width, layers, input_shape[0], dropout, pool)
    if num_outputs is not None:
        named["head"] = nn.Linear(width, num_outputs)
    return nn.Sequential(named)
