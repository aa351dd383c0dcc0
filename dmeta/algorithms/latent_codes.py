"""LEO's parts: from a support set to a Gaussian per class, from a code to a class's weights.

Rusu et al. 2019 (arXiv:1807.05960), section 2.3. All maps are without biases. Knows no inner loop.

Letters: S support examples, W ways, D features of an example, L latents of a code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.embeddings import class_means
from dmeta.bilevel.types import Params

ENCODER, DECODER = "leo/encoder", "leo/decoder"
RELATION = ("leo/relation1", "leo/relation2", "leo/relation3")
CODER_PARTS = (ENCODER, *RELATION, DECODER)
"""Names of the parameters: [D, L], three of [2L, 2L], [L, 2D]."""

_LEAST_STD = 1e-6


class Gaussian(NamedTuple):
    """Independent normal distributions.

    Attributes:
        mean: [...].
        std: [...] standard deviations.
    """

    mean: Tensor
    std: Tensor


def init_parts(num_features: int, num_latents: int, seed: int, like: Tensor) -> dict[str, Tensor]:
    """The parts' initial values, Glorot-uniform (Glorot & Bengio 2010, eq. 16).

    Args:
        num_features: D.
        num_latents: L.
        seed: of the values.
        like: has their dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    pair = 2 * num_latents
    shapes = [(num_features, num_latents), *3 * [(pair, pair)], (num_latents, 2 * num_features)]
    parts = {}
    for name, shape in zip(CODER_PARTS, shapes, strict=True):
        bound = math.sqrt(6 / sum(shape))
        values = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        parts[name] = values.to(like)
    return parts


def encode(parts: Params, features: Tensor, labels: Tensor, ways: int) -> Gaussian:
    """A Gaussian over the code of each class, from what every support example is to every other.

    Args:
        parts: the parameters.
        features: [S, D].
        labels: [S] in 0..W-1.
        ways: W.

    Returns: [W, L] means and deviations; N(0, 1) for a class without examples.
    """
    first, second, third = (parts[name] for name in RELATION)
    left, right = first.chunk(2)  # [L, 2L] each: the layer for a pair is the sum of its halves'
    codes = features @ parts[ENCODER]
    pairs = torch.relu((codes @ left)[:, None] + codes @ right)  # [S, S, 2L]
    # The last layer is linear: of the mean over the second of a pair.
    related = torch.relu(pairs @ second).mean(1) @ third
    return _gaussian(class_means(related, labels, ways), scale=1.0)


def decode(parts: Params, codes: Tensor) -> Gaussian:
    """Codes [W, L] -> a Gaussian over each class's weights [W, D].

    Its deviations are Glorot's sqrt(2 / (D + W)) where the decoder says 0.
    """
    ways, num_features = len(codes), parts[DECODER].shape[1] // 2
    return _gaussian(codes @ parts[DECODER], scale=math.sqrt(2 / (num_features + ways)))


def _gaussian(halves: Tensor, scale: float) -> Gaussian:
    """Means and, before the softplus, deviations in one row; `scale` is the deviation of 0."""
    mean, before = halves.chunk(2, dim=1)
    return Gaussian(mean, F.softplus(before) * (scale / math.log(2)) + _LEAST_STD)


def divergence(code: Gaussian) -> Tensor:
    """KL(code || N(0, 1)) in nats, the mean over classes and latents: []."""
    return ((code.mean.square() + code.std.square() - 1) / 2 - code.std.log()).mean()


def decoder_correlation(parts: Params) -> Tensor:
    """Mean of (C - I)^2, C [L, L] the cosines between the rows of the decoder: []."""
    rows = F.normalize(parts[DECODER], dim=1)
    identity = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    return (rows @ rows.T - identity).square().mean()


def half_squares(parts: Params) -> Tensor:
    """Half the sum of all squared parameters of the parts: []."""
    return torch.stack([parts[name].square().sum() for name in CODER_PARTS]).sum() / 2
