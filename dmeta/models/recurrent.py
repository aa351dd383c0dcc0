"""LSTM and GRU on sequences.

Hochreiter & Schmidhuber 1997 with forget gates (Gers et al. 2000); Cho et al. 2014
(arXiv:1406.1078). The equations, names and initial weights are those of `torch.nn.LSTM` and
`torch.nn.GRU` (a GRU's reset gate is applied after the product, as in Cho et al.'s second version),
with elementary operations: torch's kernels are not mapped over tasks.

At padding the state is as it was before: what is read at the end is the state after the last token,
from either side, as with `torch.nn.utils.rnn.pack_padded_sequence`.

Letters: N examples, L positions, C channels, D units.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.models.sequences import (
    SequenceInput,
    check_sequence,
    mean_over_positions,
)
from dmeta.models.sizes import check_depth, check_rates, check_sizes

_GATES = {"lstm": 4, "gru": 3}


class RecurrentLayers(nn.Module):
    """Layers of LSTM or GRU cells, from one side or both: [N, L, C] -> [N, L, D] or [N, L, 2 D].

    Parameters are called as those of `torch.nn.LSTM`, in its layout.
    """

    def __init__(
        self,
        cell: Literal["lstm", "gru"],
        channels: int,
        hidden: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.cell, self.hidden, self.num_layers = cell, hidden, num_layers
        self.ends, self.rate = ("", "_reverse") if bidirectional else ("",), dropout
        gates, bound = _GATES[cell] * hidden, 1 / math.sqrt(hidden)
        for layer in range(num_layers):
            for end in self.ends:
                for kind, shape in (
                    ("weight_ih", (gates, channels)),
                    ("weight_hh", (gates, hidden)),
                    ("bias_ih", (gates,)),
                    ("bias_hh", (gates,)),
                ):
                    values = torch.empty(shape).uniform_(-bound, bound)
                    setattr(self, f"{kind}_l{layer}{end}", nn.Parameter(values))
            channels = hidden * len(self.ends)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[N, L, C] -> every state [N, L, D] of the last layer, and the last of each side [N, D].

        With two sides there are 2 D units, those that begin at the end second.

        Args:
            x: the inputs.
            padding: [N, L] bool, true where the state stays as it is; None: nowhere.
        """
        last = x[:, 0, :0]
        for layer in range(self.num_layers):
            if layer:
                x = F.dropout(x, self.rate, self.training)
            walks = [self._walk(x, padding, f"l{layer}{end}") for end in self.ends]
            x = torch.cat([torch.stack(states, 1) for states, _ in walks], dim=-1)
            last = torch.cat([state for _, state in walks], dim=-1)
        return x, last

    def _walk(self, x: Tensor, padding: Tensor | None, name: str) -> tuple[list[Tensor], Tensor]:
        """The states at all positions, in order, and the one after the last step."""
        inputs = F.linear(x, getattr(self, f"weight_ih_{name}"), getattr(self, f"bias_ih_{name}"))
        weight, bias = getattr(self, f"weight_hh_{name}"), getattr(self, f"bias_hh_{name}")
        h = c = x.new_zeros(len(x), self.hidden)
        length = x.shape[1]
        places = range(length - 1, -1, -1) if name.endswith("_reverse") else range(length)
        states: dict[int, Tensor] = {}
        for place in places:
            step = _lstm if self.cell == "lstm" else _gru
            new_h, new_c = step(inputs[:, place], F.linear(h, weight, bias), h, c)
            if padding is not None:
                is_padding = padding[:, place, None]
                new_h, new_c = torch.where(is_padding, h, new_h), torch.where(is_padding, c, new_c)
            h, c = new_h, new_c
            states[place] = h
        return [states[place] for place in range(length)], h


def _lstm(from_input: Tensor, from_state: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Gates in torch's order: input, forget, cell, output."""
    i, f, g, o = (from_input + from_state).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(from_input: Tensor, from_state: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gates in torch's order: reset, update, new; a GRU has no second state."""
    input_r, input_z, input_n = from_input.chunk(3, dim=-1)
    state_r, state_z, state_n = from_state.chunk(3, dim=-1)
    z = torch.sigmoid(input_z + state_z)
    n = torch.tanh(input_n + torch.sigmoid(input_r + state_r) * state_n)
    return (1 - z) * n + z * h, c


class RecurrentEncoder(nn.Module):
    """A sequence as one vector: [N, L], [N, L, C] -> [N, D], or [N, 2 D] from both sides."""

    def __init__(self, inputs: SequenceInput, layers: RecurrentLayers, pool: str) -> None:
        super().__init__()
        self.inputs, self.layers, self.pool = inputs, layers, pool

    def forward(self, x: Tensor) -> Tensor:
        """[N, L] or [N, L, C] -> [N, D]."""
        numbers, padding = self.inputs(x)
        states, last = self.layers(numbers, padding)
        return last if self.pool == "last" else mean_over_positions(states, padding)


def lstm(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    hidden: int = 64,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    pool: Literal["last", "mean"] = "last",
    num_tokens: int | None = None,
    embedding: int = 64,
    padding_id: int | None = None,
) -> nn.Module:
    """LSTM layers on a sequence, and a linear layer on what they have read.

    Args:
        input_shape: (length, channels) or (length,) of a series of numbers; (length,) of token ids.
        num_outputs: width of the last layer; None: no such layer, an embedding.
        hidden: units of a layer, from each side.
        num_layers: layers.
        bidirectional: read the sequence from both sides.
        dropout: rate between the layers, in training.
        pool: what the last layer sees: the state after the ``last`` token, or the ``mean`` over
            all.
        num_tokens: number of token ids; None: the sequences are series of numbers.
        embedding: dimensions of the vector of a token id.
        padding_id: token id of padding, which is not read; None: there is none.

    Raises:
        ValueError: the input is no sequence; a size is below 1.
    """
    sizes = (hidden, num_layers, bidirectional, dropout)
    return _recurrent(
        "lstm", input_shape, num_outputs, sizes, pool, num_tokens, embedding, padding_id
    )


def gru(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    hidden: int = 64,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    pool: Literal["last", "mean"] = "last",
    num_tokens: int | None = None,
    embedding: int = 64,
    padding_id: int | None = None,
) -> nn.Module:
    """GRU layers on a sequence, and a linear layer on what they have read.

    Args:
        input_shape: (length, channels) or (length,) of a series of numbers; (length,) of token ids.
        num_outputs: width of the last layer; None: no such layer, an embedding.
        hidden: units of a layer, from each side.
        num_layers: layers.
        bidirectional: read the sequence from both sides.
        dropout: rate between the layers, in training.
        pool: what the last layer sees, as of `lstm`: ``last`` or ``mean``.
        num_tokens: number of token ids; None: the sequences are series of numbers.
        embedding: dimensions of the vector of a token id.
        padding_id: token id of padding, which is not read; None: there is none.

    Raises:
        ValueError: as `lstm`.
    """
    sizes = (hidden, num_layers, bidirectional, dropout)
    return _recurrent(
        "gru", input_shape, num_outputs, sizes, pool, num_tokens, embedding, padding_id
    )


def _recurrent(
    cell: Literal["lstm", "gru"],
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    sizes: tuple[int, int, bool, float],
    pool: str,
    num_tokens: int | None,
    embedding: int,
    padding_id: int | None,
) -> nn.Module:
    hidden, num_layers, _, dropout = sizes
    check_sizes(hidden=(hidden, 1), num_layers=(num_layers, 1), embedding=(embedding, 1))
    check_depth(num_layers=num_layers)
    check_rates(dropout=dropout)
    check_sequence(cell, input_shape, num_tokens, padding_id)
    inputs = SequenceInput(input_shape, num_tokens, padding_id, embedding)
    layers = RecurrentLayers(cell, inputs.channels, *sizes)
    named: OrderedDict[str, nn.Module] = OrderedDict(encoder=RecurrentEncoder(inputs, layers, pool))
    if num_outputs is not None:
        named["head"] = nn.Linear(hidden * len(layers.ends), num_outputs)
    return nn.Sequential(named)
