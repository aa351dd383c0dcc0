"""ResNet-12, the residual network of few-shot learning.

Oreshkin et al. 2018 (arXiv:1805.10123), appendix A, with ``widths=[64,128,256,512]``; the default
widths, initial weights and DropBlock: Lee et al. 2019 (arXiv:1904.03758, MetaOptNet), section 4.1
and their code, with ``drop_rate=0.1`` and, on miniImageNet and tieredImageNet, ``dropblock_size=5``
(2 on images of 32 pixels).

Differs from the papers' code: nothing is dropped unless `drop_rate` is set, and then at one rate
from the first step on (Lee et al. raise that of DropBlock over 40,000 batches); the activation at a
block's end stands after its pool (max and LeakyReLU commute, and it has a quarter of the work
there).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from dmeta.models.context import FILM_BLOCK, Film
from dmeta.models.drop_block import DropBlock
from dmeta.models.sizes import check_depth, check_image, check_rates, check_sizes

_SLOPE = 0.1
_DROPBLOCKS = 2  # the last so many blocks drop squares of pixels


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions in parallel with one of 1x1, then a 2x2 max-pool.

    [N, C, H, W] -> [N, F, H // 2, W // 2], for C channels in and F out.
    """

    def __init__(
        self, channels: int, width: int, context: int, drop: nn.Module | None = None
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, inner in enumerate((channels, width, width), start=1):
            layers[f"conv{i}"] = _convolution(inner, width, 3)
            layers[f"norm{i}"] = nn.BatchNorm2d(width)
            if i < 3:
                layers[f"relu{i}"] = nn.LeakyReLU(_SLOPE)
        self.residual = nn.Sequential(layers)
        self.shortcut = nn.Sequential(_convolution(channels, width, 1), nn.BatchNorm2d(width))
        after = [nn.MaxPool2d(2), *([Film(context, width)] if context else [])]
        dropped = [] if drop is None else [drop]
        self.after = nn.Sequential(*after, nn.LeakyReLU(_SLOPE), *dropped)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, F, H // 2, W // 2]."""
        out: Tensor = self.after(self.residual(x) + self.shortcut(x))
        return out


def resnet12(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    widths: Sequence[int] = (64, 160, 320, 640),
    pool: Literal["mean", "none"] = "mean",
    context: int = 0,
    drop_rate: float = 0.0,
    dropblock_size: int = 5,
) -> nn.Module:
    """Residual blocks of three convolutions each, the mean over pixels, a linear layer.

    Args:
        input_shape: (channels, height, width).
        num_outputs: width of the last layer; None: no such layer, an embedding.
        widths: channels of the blocks; their number is that of the blocks.
        pool: ``mean`` over pixels before the last layer, or ``none``, as in the code of Lee et al.
        context: numbers that scale and shift the channels of the third block (or the last one)
            before its last activation, and that a method such as CAVIA moves for each task (see
            `dmeta.models.context`).
        drop_rate: in training, the share of the features that is dropped at the end of each block:
            squares of pixels of the last two blocks (DropBlock), single ones of the others.
        dropblock_size: side of those squares, in pixels; smaller feature maps are dropped whole.

    Raises:
        ValueError: the input is not an image, or too small for so many blocks; a width is below 1.
    """
    check_sizes(widths=(min(widths, default=0), 1), context=(context, 0))
    check_sizes(dropblock_size=(dropblock_size, 1))
    check_rates(drop_rate=drop_rate)
    check_depth(**{"widths (their number)": len(widths)})
    check_image("resnet12", input_shape, 2 ** len(widths), "give model.widths fewer entries")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, height, columns = input_shape
    steered = min(FILM_BLOCK, len(widths))
    for i, width in enumerate(widths, start=1):
        drop: nn.Module | None = None
        if drop_rate:
            in_squares = i > len(widths) - _DROPBLOCKS
            drop = DropBlock(drop_rate, dropblock_size) if in_squares else nn.Dropout(drop_rate)
        layers[f"block{i}"] = ResidualBlock(channels, width, context if i == steered else 0, drop)
        channels, height, columns = width, height // 2, columns // 2
    if pool == "mean":
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    if num_outputs is not None:
        pixels = 1 if pool == "mean" else height * columns
        layers["head"] = nn.Linear(channels * pixels, num_outputs)
    return nn.Sequential(layers)


def _convolution(channels: int, width: int, size: int) -> nn.Conv2d:
    made = nn.Conv2d(channels, width, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, _SLOPE, mode="fan_out", nonlinearity="leaky_relu")
    return made
