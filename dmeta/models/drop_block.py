"""DropBlock: drops squares of neighbouring pixels of a feature map, in training.

Ghiasi et al. 2018 (arXiv:1810.12890), algorithm 1 and eq. 1. The squares are drawn by `F.dropout`,
of which a network makes a function of the task's seed (`dmeta.models.overrides`).

Differs from the paper: the squares lie within the feature map, in whose every place one may begin
(as in the code of Lee et al. 2019, arXiv:1904.03758, which the rate is meant for, too); the rate is
the same from the first step on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DropBlock(nn.Module):
    """Sets squares of pixels to 0, each channel's own, and scales the others up.

    [N, C, H, W] -> [N, C, H, W]; in evaluation, the identity.
    """

    def __init__(self, rate: float, size: int) -> None:
        super().__init__()
        self.rate, self.size = rate, size

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        if not self.training:
            return x
        height, width = x.shape[2:]
        rows, columns = min(self.size, height), min(self.size, width)
        places = (height - rows + 1, width - columns + 1)
        # A pixel lies in rows * columns squares; at the border in fewer.
        gamma = self.rate / (rows * columns) * height * width / (places[0] * places[1])
        ones = torch.ones_like(x[:, :, : places[0], : places[1]])
        begins = (F.dropout(ones, min(gamma, 1.0)) == 0).to(x.dtype)
        pads = (columns - 1, columns - 1, rows - 1, rows - 1)
        dropped = F.max_pool2d(F.pad(begins, pads), (rows, columns), stride=1)
        kept = 1 - dropped
        return x * (kept * (kept.numel() / kept.sum().clamp(min=1)))
