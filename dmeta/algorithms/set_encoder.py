"""A set encoder: from the support set to one vector, the code of the task.

Requeima et al. 2019 (arXiv:1906.07697), section 2.1, as in the authors' code: the mean over the
examples, z = mean_i g(x_i). Of images, g is [3x3 convolution, batch-norm, ReLU, 2x2 max-pool] x
blocks, then the mean over pixels; there are five blocks, or as many as leave two pixels a side.
Statistics of the batch-norms are those of the support set.

Differs from the code: of other inputs, g is two dense layers on the features that the network makes
of them, with a ReLU between.

Letters: S support examples, D dimensions of the embedding, Z of the code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.dense_layers import BIAS, WEIGHT, dense, init_layer
from dmeta.bilevel.types import Params
from dmeta.models.norms import Statistics, normalized

CONVOLUTION, NORM = "cnaps/encoder/convolution", "cnaps/encoder/norm"
DENSE = "cnaps/encoder/dense"
"""Names of layers, without their numbers."""

_MOST_BLOCKS = 5
_NORM_EPS = 1e-5  # torch's


def num_blocks(input_shape: tuple[int, ...]) -> int:
    """Of convolutions; 0 for inputs that are no images of at least 4 pixels a side."""
    if len(input_shape) != 3:
        return 0
    return max(0, min(_MOST_BLOCKS, min(input_shape[1:]).bit_length() - 2))


def init_encoder(
    input_shape: tuple[int, ...],
    num_features: int,
    size: int,
    generator: torch.Generator,
    like: Tensor,
) -> dict[str, Tensor]:
    """The weights of g, as torch draws them.

    Args:
        input_shape: of one example.
        num_features: D.
        size: Z.
        generator: of the draw.
        like: has their dtype.
    """
    blocks = num_blocks(input_shape)
    weights: dict[str, Tensor] = {}
    if not blocks:
        for i, width in enumerate((num_features, size), start=1):
            weights |= init_layer(f"{DENSE}{i}", (size, width), generator, like)
        return weights
    channels = input_shape[0]
    for i in range(1, blocks + 1):
        weights |= init_layer(f"{CONVOLUTION}{i}", (size, channels, 3, 3), generator, like)
        weights[f"{NORM}{i}{WEIGHT}"] = like.new_ones(size)
        weights[f"{NORM}{i}{BIAS}"] = like.new_zeros(size)
        channels = size
    return weights


def encode_images(weights: Params, images: Tensor) -> Tensor:
    """[S, channels, height, width] -> the code [Z]."""
    x = images
    for i in range(1, num_blocks(tuple(images.shape[1:])) + 1):
        name = f"{CONVOLUTION}{i}"
        x = F.conv2d(x, weights[name + WEIGHT], weights[name + BIAS], padding=1)
        weight, bias = (weights[f"{NORM}{i}{part}"] for part in (WEIGHT, BIAS))
        x = F.max_pool2d(torch.relu(normalized(x, weight, bias, _NORM_EPS, Statistics())), 2)
    return x.mean((0, 2, 3))


def encode_features(weights: Params, features: Tensor) -> Tensor:
    """[S, D] -> the code [Z]."""
    hidden = torch.relu(dense(weights, f"{DENSE}1", features))
    return dense(weights, f"{DENSE}2", hidden).mean(0)
