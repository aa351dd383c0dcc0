"""ResNet-10 and ResNet-18, with the layers and names of torchvision's.

He et al. 2016 (arXiv:1512.03385), table 1; ResNet-10, and these networks in few-shot learning: Chen
et al. 2019, "A Closer Look at Few-shot Classification" (arXiv:1904.04232), section 4.1 and their
code.

Differs from the papers' code: the last pool is over all pixels whatever the image's size (Chen et
al. have 224, for which it is the same); batch-norms take batch statistics. The weights of
torchvision's networks fit (`model.init_from`), all but those of the last layer, which is called
``head``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dmeta.models.sizes import check_image, check_sizes


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, C, H, W] -> [N, F, H / s, W / s], rounded up.

    Args:
        channels: C, of the input.
        width: F.
        stride: s, of the first convolution and of the shortcut.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != width:
            shortcut = convolution(channels, width, 1, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, F, H / s, W / s]."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


def resnet10(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    width: int = 64,
    stem: Literal["imagenet", "small"] = "imagenet",
) -> nn.Module:
    """Four residual blocks of two convolutions each, after a 7x7 convolution and a max-pool.

    Args:
        input_shape: (channels, height, width).
        num_outputs: width of the last layer; None: no such layer, an embedding.
        width: channels of the first stage; each of the three others has twice as many.
        stem: the first layers: ``imagenet``, a 7x7 convolution of stride 2 and a 3x3 max-pool of
            stride 2, or ``small``, for images of 32 to 84 pixels, a 3x3 convolution of stride 1.

    Raises:
        ValueError: the input is no image; a size is below 1.
    """
    return _resnet("resnet10", input_shape, num_outputs, width, stem, (1, 1, 1, 1))


def resnet18(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    width: int = 64,
    stem: Literal["imagenet", "small"] = "imagenet",
) -> nn.Module:
    """Eight residual blocks of two convolutions each, after a 7x7 convolution and a max-pool.

    Args:
        input_shape: (channels, height, width).
        num_outputs: width of the last layer; None: no such layer, an embedding.
        width: channels of the first stage; each of the three others has twice as many.
        stem: the first layers, as of `resnet10`: ``imagenet`` or ``small``.

    Raises:
        ValueError: as `resnet10`.
    """
    return _resnet("resnet18", input_shape, num_outputs, width, stem, (2, 2, 2, 2))


def _resnet(
    name: str,
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    width: int,
    stem: str,
    blocks: Sequence[int],
) -> nn.Module:
    check_sizes(width=(width, 1))
    check_image(name, input_shape, 1, "choose model=conv4")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stem == "imagenet":
        layers["conv1"] = convolution(input_shape[0], width, 7, 2)
    else:
        layers["conv1"] = convolution(input_shape[0], width, 3, 1)
    layers["bn1"], layers["relu"] = nn.BatchNorm2d(width), nn.ReLU()
    if stem == "imagenet":
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    channels = width
    for stage, count in enumerate(blocks):
        wide, first = width * 2**stage, 1 if stage == 0 else 2
        inputs = [channels, *[wide] * (count - 1)]
        made = [BasicBlock(c, wide, first if i == 0 else 1) for i, c in enumerate(inputs)]
        layers[f"layer{stage + 1}"] = nn.Sequential(*made)
        channels = wide
    layers["avgpool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    if num_outputs is not None:
        layers["head"] = nn.Linear(channels, num_outputs)
    return nn.Sequential(layers)


def convolution(channels: int, width: int, size: int, stride: int) -> nn.Conv2d:
    """Without bias, its weights normal as He et al. 2015 (arXiv:1502.01852), by the outputs."""
    made = nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made
