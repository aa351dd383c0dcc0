"""A residual network in plain torch, and tasks of coloured gratings, for comparisons in float64.

Knows nothing of dmeta.

Letters: S support examples, Q query examples, W ways.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

SHAPE = (3, 20, 20)
LABELS = (0, 1, 1, 2, 3, 0, 1, 3, 3, 0)
"""Of the support examples: the classes are unequal, one has a single example."""


class Residual(nn.Module):
    """Two 3x3 convolutions, the first of stride 2, in parallel with one of 1x1."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(channels, width, 1, stride=2, bias=False)
        self.norm3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        out: Tensor = torch.relu(self.norm2(self.conv2(inner)) + self.norm3(self.shortcut(x)))
        return out


def small_resnet(seed: int) -> nn.Sequential:
    """Two residual blocks of 5 and 6 channels; norms that do not begin at 1 and 0; float64."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        made = nn.Sequential(
            Residual(3, 5), Residual(5, 6), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        ).double()
        with torch.no_grad():
            for layer in made.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.weight.normal_(1, 0.2)
                    layer.bias.normal_(0, 0.2)
    return made


def draw(seed: int, Q: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support x [S, 3, 20, 20] and y, query x and y: a class is an angle, a period and a colour."""
    rng = np.random.default_rng([7_919, seed])
    ways = max(LABELS) + 1
    angle, period = rng.uniform(0, math.pi, ways), rng.uniform(3, 9, ways)
    colour = rng.uniform(0.2, 1, (ways, 3, 1, 1))
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]

    def images(labels: np.ndarray) -> Tensor:
        made = []
        for w in labels:
            turned = angle[w] + rng.normal(0, 0.1)
            along = rows * math.sin(turned) + columns * math.cos(turned)
            wave = np.sin(2 * math.pi * along / period[w] + rng.uniform(0, 2 * math.pi))
            made.append(colour[w] * wave + rng.normal(0, 0.2, SHAPE))
        return torch.as_tensor(np.stack(made))

    support, query = np.array(LABELS), rng.integers(0, ways, Q)
    return images(support), torch.as_tensor(support), images(query), torch.as_tensor(query)
