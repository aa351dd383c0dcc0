"""`dmeta train` with a loss that is NaN for 1 of 100 blocks: a function of their sinusoids.

python -m tests.chaos.rare_nan KEY=VALUE ...
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import dmeta

_LARGE = 4.9  # the first target of 1 of about 900 sets of examples is as large


class RareNaN:
    """The mean squared error, or NaN."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        error = (prediction - target).square().mean()
        return torch.where(target.flatten()[0].abs() > _LARGE, torch.nan, error)


if __name__ == "__main__":
    dmeta.train(sys.argv[1:], loss=RareNaN())
