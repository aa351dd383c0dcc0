"""Vision transformer: patches of an image are the positions of a transformer encoder.

Dosovitskiy et al. 2021 (arXiv:2010.11929), eq. 1 to 4, section 3.1.

Differs from the paper: it is small unless it is made larger (the paper's smallest has 12 layers of
768 dimensions), and positions of images of another size are not interpolated: a network is made for
one size.

Letters: N examples, L patches, D dimensions.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from dmeta.models.encoder_layer import EncoderLayer, check_encoder
from dmeta.models.sizes import check_image, check_sizes

_EPS = 1e-6  # of the paper's layer-norms


class PatchEmbedding(nn.Module):
    """Eq. 1: patches mapped linearly, a class token in front, positions added.

    [N, C, H, W] -> [N, L + 1, D], or [N, L, D] without a class token.
    """

    def __init__(
        self, input_shape: tuple[int, ...], patch: int, width: int, class_token: bool
    ) -> None:
        super().__init__()
        channels, rows, columns = input_shape
        self.patches = nn.Conv2d(channels, width, patch, patch)
        positions = (rows // patch) * (columns // patch) + class_token
        self.positions = nn.Parameter(0.02 * torch.randn(1, positions, width))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if class_token else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, L + 1, D]."""
        tokens = self.patches(x).flatten(2).mT
        if self.class_token is not None:
            first = self.class_token.expand(len(x), -1, -1)
            tokens = torch.cat([first, tokens], dim=1)
        out: Tensor = tokens + self.positions
        return out


class PoolTokens(nn.Module):
    """[N, L, D] -> [N, D]: the first position, or the mean of all."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, D] -> [N, D]."""
        return x[:, 0] if self.first else x.mean(1)


def vit(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    hidden: int = 128,
    dropout: float = 0.0,
    pool: Literal["class_token", "mean"] = "class_token",
) -> nn.Module:
    """A transformer encoder on patches of an image, and a linear layer.

    Args:
        input_shape: (channels, height, width).
        num_outputs: width of the last layer; None: no such layer, an embedding.
        patch: side of a patch in pixels; rows and columns that fill none are not seen.
        width: dimensions of a position.
        depth: layers of the encoder.
        heads: of the attention; must divide `width`.
        hidden: width of the perceptron of each layer.
        dropout: rate of the encoder's dropout, in training.
        pool: what the last layer sees: the ``class_token``, or the ``mean`` of all patches (then
            there is no such token).

    Raises:
        ValueError: the input is no image, or smaller than a patch; the sizes do not fit.
    """
    check_encoder(width, depth, heads, hidden, dropout)
    check_sizes(patch=(patch, 1))
    check_image("vit", input_shape, patch, "lower model.patch")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["patches"] = PatchEmbedding(input_shape, patch, width, pool == "class_token")
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    for i in range(1, depth + 1):
        layers[f"layer{i}"] = EncoderLayer(
            width, heads, hidden, dropout, norm_first=True, eps=_EPS, gelu=True
        )
    layers["norm"] = nn.LayerNorm(width, _EPS)
    layers["pool"] = PoolTokens(pool == "class_token")
    if num_outputs is not None:
        layers["head"] = nn.Linear(width, num_outputs)
    return nn.Sequential(layers)
