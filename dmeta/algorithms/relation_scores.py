"""The relation module of relation networks, as a function of its weights.

Sung et al. 2018 (arXiv:1711.06025), section 3.4, as in the authors' code
(github.com/floodsung/LearningToCompare_FSL). A pair of maps, side by side as 2 C channels, gives

    [3x3 conv, batch-norm, ReLU, 2x2 max-pool] x 2, linear, ReLU, linear

and a pair of vectors the same with linear layers in place of convolutions, without pools. The
convolutions are padded unless the map has 10 pixels a side or more: so have the authors' networks
for Omniglot (5x5, padded) and miniImageNet (19x19, not padded). A side of one pixel is not pooled.

Knows no network.

Letters: N examples, W ways, C channels or dimensions, F filters, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.bilevel.types import Params
from dmeta.models.norms import Statistics, normalized

LAYERS = ("relation/layer1", "relation/layer2")
NORMS = ("relation/norm1", "relation/norm2")
HIDDEN, SCORE = "relation/hidden", "relation/score"
"""Layers: each has ``/weight`` and ``/bias``, of shapes as torch's layers have."""

_NORM_EPS = 1e-5  # torch's
_LEAST_UNPADDED = 10  # pixels: two unpadded convolutions, each with a pool, leave one


def init_module(
    shape: tuple[int, ...], filters: int, hidden: int, seed: int, like: Tensor, *, norms: bool
) -> dict[str, Tensor]:
    """Initial weights.

    Of maps as in the authors' code: convolutions by He et al. (arXiv:1502.01852), linear layers
    nearly 0 with biases of 1. Of vectors all layers by He et al., biases 0.

    Args:
        shape: of one embedded example, [C, height, width] or [C].
        filters: F.
        hidden: H.
        seed: of the draw.
        like: has their dtype.
        norms: whether there are batch-norms.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}

    def add(name: str, size: tuple[int, ...], std: float, bias: float) -> None:
        weight = torch.empty(size).normal_(0, std, generator=generator)
        made[f"{name}/weight"] = weight.to(like)
        made[f"{name}/bias"] = like.new_full(size[:1], bias)

    is_map, inputs = len(shape) == 3, 2 * shape[0]
    for layer, norm in zip(LAYERS, NORMS, strict=True):
        kernel = (3, 3) if is_map else ()
        fan = filters * math.prod(kernel) if is_map else inputs
        add(layer, (filters, inputs, *kernel), math.sqrt(2 / fan), 0.0)
        if norms:
            made[f"{norm}/weight"] = like.new_ones(filters)
            made[f"{norm}/bias"] = like.new_zeros(filters)
        inputs = filters
    width = filters * math.prod(_left(side, _padding(shape)) for side in shape[1:])
    for layer, size in ((HIDDEN, (hidden, width)), (SCORE, (1, hidden))):
        add(layer, size, *((0.01, 1.0) if is_map else (math.sqrt(2 / size[1]), 0.0)))
    return made


def logits_of_pairs(
    weights: Params, of_classes: Tensor, of_examples: Tensor, at: Statistics
) -> Tensor:
    """Scores before their sigmoid: [W, C, ...] and [N, C, ...] to [N, W].

    Args:
        weights: as from `init_module`.
        of_classes: what the classes' support examples were embedded to, summed.
        of_examples: the embedded examples.
        at: statistics of the batch-norms; the W pairs of an example are W rows, one after another.
    """
    apply = _layer_of(tuple(of_examples.shape[1:]))
    weight, C = weights[f"{LAYERS[0]}/weight"], of_classes.shape[1]
    # The first layer is linear in each of the two: N + W of them instead of N W.
    first = apply(of_examples, weight[:, C:], None)[:, None] + apply(
        of_classes, weight[:, :C], weights[f"{LAYERS[0]}/bias"]
    )
    pairs = _activated(weights, NORMS[0], first.flatten(0, 1), at)
    second = apply(pairs, weights[f"{LAYERS[1]}/weight"], weights[f"{LAYERS[1]}/bias"])
    features = _activated(weights, NORMS[1], second, at).flatten(1)
    for layer in (HIDDEN, SCORE):
        features = F.linear(features, weights[f"{layer}/weight"], weights[f"{layer}/bias"])
        features = features.relu() if layer == HIDDEN else features
    return features.view(len(of_examples), len(of_classes))


def _layer_of(shape: tuple[int, ...]) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    if len(shape) != 3:
        return F.linear
    padding = _padding(shape)
    return lambda x, weight, bias: F.conv2d(x, weight, bias, padding=padding)


def _activated(weights: Params, norm: str, x: Tensor, at: Statistics) -> Tensor:
    if f"{norm}/weight" in weights:
        x = normalized(x, weights[f"{norm}/weight"], weights[f"{norm}/bias"], _NORM_EPS, at)
    if x.dim() == 4:
        # Before ReLU, with which it commutes: a quarter of the work.
        x = F.max_pool2d(x, tuple(_pool(side) for side in x.shape[2:]))
    return x.relu()


def _padding(shape: tuple[int, ...]) -> int:
    return int(min(shape[1:], default=0) < _LEAST_UNPADDED)


def _pool(side: int) -> int:
    return min(side, 2)


def _left(side: int, padding: int) -> int:
    """Pixels a side after both layers."""
    for _ in LAYERS:
        convolved = side - 2 * (1 - padding)
        side = convolved // _pool(convolved)
    return side
