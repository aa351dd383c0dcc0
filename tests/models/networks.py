"""Small networks and inputs that the tests of networks share.

Letters: S support rows, Q query rows, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmeta.models import MODELS
from dmeta.models.network import Network

S, Q, C = 4, 3, 2


def images(seed: int, rows: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.randn(rows, C, 8, 8, generator=rng)


def conv4() -> Network:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return Network.of(
            MODELS["conv4"].make(input_shape=(C, 8, 8), num_outputs=3, filters=3, blocks=2)
        )


def norm_with_history() -> nn.BatchNorm2d:
    """A batch-norm with weights and running statistics that are neither 0 nor 1."""
    norm = nn.BatchNorm2d(C, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -2.0]))
        norm.bias.copy_(torch.tensor([1.0, 3.0]))
    assert norm.running_mean is not None
    norm.running_mean.fill_(7.0)
    return norm
