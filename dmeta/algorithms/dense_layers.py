"""Dense layers of the small networks that a method has besides its model.

Their weights are named tensors among the meta-parameters. Knows no network.

Letters: N rows, D inputs, F outputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.bilevel.types import Params

WEIGHT, BIAS = "/weight", "/bias"
"""Last parts of names."""


def init_layer(
    name: str, shape: tuple[int, ...], generator: torch.Generator, like: Tensor
) -> dict[str, Tensor]:
    """Weights and biases as torch draws them: uniform up to the root of 1 / number of inputs.

    Args:
        name: of the layer.
        shape: of the weights: [F, D], or that of a convolution.
        generator: of the draw.
        like: has their dtype.
    """
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    shapes = {WEIGHT: shape, BIAS: shape[:1]}
    return {
        name + part: torch.empty(size).uniform_(-bound, bound, generator=generator).to(like)
        for part, size in shapes.items()
    }


def dense(weights: Params, name: str, rows: Tensor) -> Tensor:
    """[N, D] -> [N, F], by the layer of that name."""
    return F.linear(rows, weights[name + WEIGHT], weights[name + BIAS])
