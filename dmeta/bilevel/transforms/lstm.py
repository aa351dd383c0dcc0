"""A learned update rule: an LSTM that maps each coordinate's gradient to its update.

Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent"
(arXiv:1606.04474), section 2.1 and appendix A. Two layers of H units; all coordinates of all
tensors share the weights, each has its own state:

    x = (log|g| / p, sign(g)) if |g| >= e^-p, else (-1, e^p g)      p = 10
    (h, c) <- LSTM(x, (h, c)),   u <- -(v^T h + b),   w <- w - rate u

Elementary operations alone, so that it can be mapped over tasks and differentiated twice.

Differs from the paper: at first the rule is a descent, not a random walk: one unit of each layer
receives only the gradient's sign, and the output is minus that unit (momentum along the sign); the
others are drawn as torch draws them, with output weights of 0. The draw is the same in every run.

Letters: P coordinates of all tensors together, H units, X inputs of a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.bilevel.types import Params

LSTM = "inner_lstm/"
"""Prefix of the weights' names."""

NUM_UNITS = 20
"""H, in the paper and here."""

_LAYERS = ("layer0", "layer1")
_LOG_RANGE = 10.0  # p

LayerState: TypeAlias = tuple[Tensor, Tensor]
"""Output h and cell c of one layer, [P, H] each."""


@dataclass(frozen=True)
class InnerLSTM:
    """Turns each coordinate's gradient into its update."""

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """The weights, as from `initial_lstm`."""
        return initial_lstm(params)

    def init(self, params: Params) -> tuple[LayerState, ...]:
        """Zeros, for each layer."""
        num_coordinates = sum(p.numel() for p in params.values())
        like = next(iter(params.values()))
        zeros = like.new_zeros(num_coordinates, NUM_UNITS)
        return tuple((zeros, zeros) for _ in _LAYERS)

    def update(
        self,
        update: Params,
        state: tuple[LayerState, ...],
        params: Params,
        step: int,
        meta: Params,
    ) -> tuple[Params, tuple[LayerState, ...]]:
        """One step; the iterate moves against an update, so that it is minus the output."""
        heard = preprocessed(torch.cat([update[name].reshape(-1) for name in params]))
        after = []
        for layer, layer_state in zip(_LAYERS, state, strict=True):
            after.append(lstm_cell(_layer(meta, layer), heard, layer_state))
            heard = after[-1][0]
        said = -(heard @ meta[LSTM + "output/weight"] + meta[LSTM + "output/bias"])
        parts = torch.split(said, [p.numel() for p in params.values()])
        return {
            name: part.reshape(p.shape)
            for (name, p), part in zip(params.items(), parts, strict=True)
        }, tuple(after)


def _layer(meta: Params, layer: str) -> tuple[Tensor, Tensor, Tensor]:
    inputs, recurrent, bias = (
        meta[f"{LSTM}{layer}/{part}"] for part in ("inputs", "recurrent", "bias")
    )
    return inputs, recurrent, bias


def preprocessed(gradients: Tensor) -> Tensor:
    """[P] to [P, 2]: magnitude and direction, both of order 1 (appendix A)."""
    smallest = math.exp(-_LOG_RANGE)
    # Clamped rather than chosen: the logarithm of 0 is never taken, nor is its derivative.
    magnitude = gradients.abs().clamp(min=smallest).log() / _LOG_RANGE
    direction = (gradients / smallest).clamp(-1.0, 1.0)
    return torch.stack([magnitude, direction], dim=-1)


def lstm_cell(
    weights: tuple[Tensor, Tensor, Tensor], inputs: Tensor, state: LayerState
) -> LayerState:
    """One step of one layer (Hochreiter & Schmidhuber 1997, with forget gates), as torch's.

    Args:
        weights: of the inputs [4H, X], of the last output [4H, H], and biases [4H]; rows of the
            input gate, the forget gate, the candidate and the output gate, in this order.
        inputs: [P, X].
        state: the layer's last output and cell, [P, H] each.
    """
    of_inputs, recurrent, bias = weights
    output, cell = state
    heard = torch.cat([inputs, output], dim=-1)
    rows = torch.cat([of_inputs, recurrent], dim=1).chunk(4)
    # A product for each gate: slices of a single one, not contiguous, take 1.6 times as long.
    admit, keep, candidate, emit = (
        F.linear(heard, of_gate, b) for of_gate, b in zip(rows, bias.chunk(4), strict=True)
    )
    return gated((admit, keep, candidate, emit), cell)


def gated(gates: tuple[Tensor, ...], cell: Tensor) -> LayerState:
    """What follows from the four gates (before their sigmoid or tanh) and the last cell, [P, H]."""
    admit, keep, candidate, emit = gates
    cell = keep.sigmoid() * cell + admit.sigmoid() * candidate.tanh()
    return emit.sigmoid() * cell.tanh(), cell


def initial_lstm(params: Params) -> dict[str, Tensor]:
    """The rule's weights at first, of the same kind of floats as the parameters it will move."""
    like = next(iter(params.values()))
    generator = torch.Generator().manual_seed(0)
    bound = 1 / math.sqrt(NUM_UNITS)
    first_candidate = 2 * NUM_UNITS
    weights = {}
    # The first unit's candidate: of layer 0 the gradient's direction, of layer 1 layer 0's unit.
    for layer, num_inputs, source in zip(_LAYERS, (2, NUM_UNITS), (1, 0), strict=True):
        shapes = {
            "inputs": (4 * NUM_UNITS, num_inputs),
            "recurrent": (4 * NUM_UNITS, NUM_UNITS),
            "bias": (4 * NUM_UNITS,),
        }
        for part, shape in shapes.items():
            drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
            drawn[first_candidate] = 0.0
            weights[f"{LSTM}{layer}/{part}"] = drawn
        weights[f"{LSTM}{layer}/inputs"][first_candidate, source] = 1.0
    weights[LSTM + "output/weight"] = torch.zeros(NUM_UNITS)
    weights[LSTM + "output/weight"][0] = -1.0
    weights[LSTM + "output/bias"] = torch.zeros(())
    return {name: w.to(like) for name, w in weights.items()}
