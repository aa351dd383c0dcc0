"""Context parameters: a few numbers per task that condition a network (CAVIA).

A layer with a context has a parameter called ``context``, of zeros; a method that knows it moves it
for each task. Letters: N examples, D inputs, C context parameters, F channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CONTEXT = "context"
"""Last part of the names of context parameters."""

FILM_BLOCK = 3
"""Of a network of blocks of convolutions, the one that a context steers, counted from 1 (as in the
code of Zintgraf et al. 2019)."""


class ContextInput(nn.Module):
    """Joins the context to every input: [N, D] -> [N, D + C]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] -> [N, D + C]."""
        return torch.cat([x, self.context.expand(len(x), -1)], dim=1)


class Film(nn.Module):
    """Scales and shifts channels by what the context says: [N, F, H, W] -> the same.

    Feature-wise linear modulation, Perez et al. 2018 (arXiv:1709.07871), eq. 1 and 2, with
    (gamma, beta) = W context + b.

    Differs from the papers' code: gamma starts near 1, not near 0: a context of 0 leaves the
    channels almost as they are.
    """

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(size))
        self.map = nn.Linear(size, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, F, H, W] -> [N, F, H, W]."""
        gamma, beta = self.map(self.context)[:, None, None].chunk(2)
        out: Tensor = x * (1 + gamma) + beta
        return out
