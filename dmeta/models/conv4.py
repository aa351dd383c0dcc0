"""The four-block convolutional networks of few-shot learning.

Vinyals et al. 2016 (arXiv:1606.04080), section 4.1; strided variant: Finn et al. 2017
(arXiv:1703.03400), section 5.2. Published variants of `conv4`:

| network | settings |
| --- | --- |
| 64-64-64-64, Vinyals et al. 2016; Snell et al. 2017 (arXiv:1703.05175) | the defaults |
| 32-32-32-32, Finn et al. 2017, miniImageNet | ``filters=32`` |
| 64-96-128-256, Garcia & Bruna 2018 (arXiv:1711.04043) | ``filters=[64,96,128,256] slope=0.2`` |
| 96-192-384-512, Bertinetto et al. 2019 (arXiv:1805.08136, R2-D2), miniImageNet |
  ``filters=[96,192,384,512] slope=0.1 dropout=0.1 join_last_two=true`` |
| 64-64-64-64, two pools, Sung et al. 2018 (arXiv:1711.06025, relation networks) |
  ``num_pools=2 unpadded_blocks=2`` |

Differs from the papers' code: weights start as torch initialises them (Kaiming-uniform with a =
sqrt 5), not Xavier-uniform with a standard normal last layer. After 400 steps of Omniglot 5-way
1-shot MAML that gives 93% on validation tasks, Xavier 90%, with the normal last layer 73%. Pools
drop an odd last row and column: features of R2-D2 have other sizes than theirs. Garcia & Bruna's
network ends in a linear layer of 128 units and normalises once more, which is left to
the head here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dmeta.models.context import FILM_BLOCK, Film
from dmeta.models.sizes import check_depth, check_image, check_rates, check_sizes


class JoinedFeatures(nn.Module):
    """What two blocks give, one after the other, flattened and joined: [N, C, H, W] -> [N, D]."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D]."""
        inner = self.first(x)
        return torch.cat([inner.flatten(1), self.second(inner).flatten(1)], dim=1)


def conv4(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    filters: int | Sequence[int] = 64,
    blocks: int = 4,
    context: int = 0,
    slope: float = 0.0,
    dropout: float = 0.0,
    num_pools: int | None = None,
    pool: Literal["mean", "none"] = "none",
    join_last_two: bool = False,
    unpadded_blocks: int = 0,
) -> nn.Module:
    """[3x3 conv, batch-norm, 2x2 max-pool, ReLU] x blocks, then a linear layer.

    ReLU stands after the pool: max and ReLU commute, and it has a quarter of the work there.

    Args:
        input_shape: (channels, height, width).
        num_outputs: width of the last layer; None: no such layer, an embedding.
        filters: channels of every block, or a list of those of each block.
        blocks: number of blocks.
        context: numbers that scale and shift the channels of the third block (or the last one)
            before its ReLU, and that a method such as CAVIA moves for each task (see
            `dmeta.models.context`).
        slope: of the ReLU below 0; 0.1 in R2-D2.
        dropout: rate at the end of the last two blocks, in training.
        num_pools: blocks that have a pool, the first so many; None: all.
        pool: ``mean`` over pixels before the last layer, or ``none``.
        join_last_two: the features are those of the last two blocks, as in R2-D2.
        unpadded_blocks: first blocks whose convolution is not padded; relation networks have 2, and
            num_pools=2.

    Raises:
        ValueError: the input is not an image, or too small for so many blocks; a size is below 1.
    """
    widths = _widths(filters, blocks, context)
    pools = blocks if num_pools is None else num_pools
    check_sizes(num_pools=(pools, 0), unpadded_blocks=(unpadded_blocks, 0))
    check_rates(dropout=dropout)
    _check_pools(pools, blocks, pool, join_last_two=join_last_two)
    paddings = [0 if i < unpadded_blocks else 1 for i in range(blocks)]
    check_image("conv4", input_shape, _least_side(pools, paddings), "lower model.blocks")
    named: OrderedDict[str, nn.Module] = OrderedDict()
    channels = input_shape[0]
    for i, width in enumerate(widths, start=1):
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=paddings[i - 1])]
        layers.append(nn.BatchNorm2d(width))
        layers += [nn.MaxPool2d(2)] if i <= pools else []
        layers += [Film(context, width)] if context and i == min(FILM_BLOCK, blocks) else []
        layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
        layers += [nn.Dropout(dropout)] if dropout and i > blocks - 2 else []
        named[f"block{i}"] = nn.Sequential(*layers)
        channels = width
    if join_last_two:
        second, first = named.popitem()[1], named.popitem()[1]
        named["last_two"] = JoinedFeatures(first, second)
    return _with_head(named, input_shape, num_outputs, pool)


def conv4_strided(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    filters: int | Sequence[int] = 64,
    blocks: int = 4,
    context: int = 0,
    pool: Literal["mean", "none"] = "mean",
) -> nn.Module:
    """[3x3 conv of stride 2, batch-norm, ReLU] x blocks, the mean over pixels, a linear layer.

    Args:
        input_shape: (channels, height, width).
        num_outputs: width of the last layer; None: no such layer, an embedding.
        filters: channels of every block, or a list of those of each block.
        blocks: number of blocks.
        context: numbers that modulate the third block, as in `conv4`.
        pool: ``mean`` over pixels before the last layer, as in MAML's code, or ``none``, as in
            Reptile's.

    Raises:
        ValueError: as `conv4`.
    """
    widths = _widths(filters, blocks, context)
    check_image("conv4_strided", input_shape, 1, "lower model.blocks")
    named: OrderedDict[str, nn.Module] = OrderedDict()
    channels = input_shape[0]
    for i, width in enumerate(widths, start=1):
        conv = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        film = [Film(context, width)] if context and i == min(FILM_BLOCK, blocks) else []
        named[f"block{i}"] = nn.Sequential(conv, nn.BatchNorm2d(width), *film, nn.ReLU())
        channels = width
    return _with_head(named, input_shape, num_outputs, pool)


def _widths(filters: int | Sequence[int], blocks: int, context: int) -> list[int]:
    """Channels of each block."""
    each = [filters] * blocks if isinstance(filters, int) else list(filters)
    least = filters if isinstance(filters, int) else min(each, default=0)
    check_sizes(filters=(least, 1), blocks=(blocks, 1), context=(context, 0))
    check_depth(blocks=blocks)
    if len(each) != blocks:
        raise ValueError(
            f"model.filters must be one number or model.blocks={blocks} of them, got {each}; give "
            "as many, or change model.blocks"
        )
    return each


def _check_pools(pools: int, blocks: int, pool: str, *, join_last_two: bool) -> None:
    if pools > blocks:
        raise ValueError(
            f"model.num_pools must be <= model.blocks={blocks} or null, got {pools}; lower it"
        )
    if join_last_two and (blocks < 2 or pool == "mean"):
        raise ValueError(
            "model.join_last_two must be false with model.pool=mean or a single block, got true "
            f"with pool={pool} and blocks={blocks}; remove it"
        )


def _least_side(pools: int, paddings: Sequence[int]) -> int:
    """Pixels that leave the last block one."""
    side = 1
    for i, padding in reversed(list(enumerate(paddings, start=1))):
        side = side * (2 if i <= pools else 1) + 2 * (1 - padding)
    return side


def _with_head(
    layers: OrderedDict[str, nn.Module],
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    pool: str,
) -> nn.Module:
    if pool == "mean":
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    if num_outputs is not None:
        with torch.no_grad():
            width = nn.Sequential(layers)(torch.zeros(2, *input_shape)).shape[1]
        layers["head"] = nn.Linear(width, num_outputs)
    return nn.Sequential(layers)
