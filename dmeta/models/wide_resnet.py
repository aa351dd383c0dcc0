"""Wide residual networks; WRN-28-10 is the widest usual backbone of few-shot learning.

Zagoruyko & Komodakis 2016 (arXiv:1605.07146), section 2 and table 1, with pre-activated blocks as
in their code: WRN-depth-widening. In few-shot learning on images of 80 to 84 pixels e.g. Rusu et
al. 2019 (arXiv:1807.05960, LEO), Mangla et al. 2020 (arXiv:1907.12087, S2M2).

Differs from the papers' code: batch-norms take batch statistics; the last pool is over all pixels
whatever the image's size.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from dmeta.models.resnet import convolution
from dmeta.models.sizes import check_depth, check_image, check_rates, check_sizes

_FIRST = 16  # channels of the first convolution
_NOT_IN_BLOCKS, _PER_BLOCK = 4, 6  # convolutions: depth = 4 + 6 n


class PreActivatedBlock(nn.Module):
    """Batch-norm, ReLU, 3x3 convolution, all twice: [N, C, H, W] -> [N, F, H / s, W / s].

    Args:
        channels: C, of the input.
        width: F.
        stride: s, of the first convolution and of the shortcut.
        dropout: rate between the convolutions.
    """

    def __init__(self, channels: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), convolution(channels, width, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), convolution(width, width, 3, 1)
        self.dropout = nn.Dropout(dropout)
        is_same = channels == width and stride == 1
        self.shortcut = None if is_same else convolution(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, F, H / s, W / s]."""
        active = torch.relu(self.norm1(x))
        inner = self.dropout(torch.relu(self.norm2(self.conv1(active))))
        out: Tensor = self.conv2(inner) + (x if self.shortcut is None else self.shortcut(active))
        return out


def wide_resnet(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    depth: int = 28,
    widen: int = 10,
    dropout: float = 0.0,
) -> nn.Module:
    """WRN-depth-widen: three stages of pre-activated residual blocks, the mean over pixels.

    Args:
        input_shape: (channels, height, width).
        num_outputs: width of the last layer; None: no such layer, an embedding.
        depth: convolutions that follow each other, 6 n + 4 for n blocks in each stage.
        widen: the stages have 16, 32 and 64 times as many channels.
        dropout: rate between the two convolutions of a block, in training.

    Raises:
        ValueError: the input is no image; a size is too small, or the depth not 6 n + 4.
    """
    check_sizes(depth=(depth, _NOT_IN_BLOCKS + _PER_BLOCK), widen=(widen, 1))
    check_depth(depth=depth)
    check_rates(dropout=dropout)
    blocks, rest = divmod(depth - _NOT_IN_BLOCKS, _PER_BLOCK)
    if rest:
        raise ValueError(
            f"model.depth must be 6 n + 4 (10, 16, 22, 28, ...), got {depth}; choose the nearest"
        )
    check_image("wide_resnet", input_shape, 1, "choose model=conv4")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = convolution(input_shape[0], _FIRST, 3, 1)
    channels = _FIRST
    for stage in range(3):
        width, first = _FIRST * widen * 2**stage, 1 if stage == 0 else 2
        inputs = [channels, *[width] * (blocks - 1)]
        made = [
            PreActivatedBlock(c, width, first if i == 0 else 1, dropout)
            for i, c in enumerate(inputs)
        ]
        layers[f"stage{stage + 1}"] = nn.Sequential(*made)
        channels = width
    layers["norm"], layers["relu"] = nn.BatchNorm2d(channels), nn.ReLU()
    layers["pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    if num_outputs is not None:
        layers["head"] = nn.Linear(channels, num_outputs)
    return nn.Sequential(layers)
