"""Clipping: the update is scaled down to a 2-norm of at most a bound.

    u <- min(1, max_norm / |u|) u,   |u| over all tensors together

Without a derivative that is not finite, at u = 0 too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from dmeta.bilevel.inner import State
from dmeta.bilevel.types import Params
from dmeta.options import check_fields


@dataclass(frozen=True)
class Clip:
    """Bounds the norm.

    Attributes:
        max_norm: bound on the 2-norm over all tensors together.
    """

    max_norm: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm.inner_chain")

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def init(self, params: Params) -> State:
        """None."""
        return ()

    def update(
        self, update: Params, state: State, params: Params, step: int, meta: Params
    ) -> tuple[Params, State]:
        """One step."""
        squares = torch.stack([u.square().sum() for u in update.values()]).sum()
        # The root of 0 has an infinite derivative; 0 gradients are not clipped anyway.
        scale = self.max_norm * squares.clamp(min=self.max_norm**2).rsqrt()
        return {name: scale * u for name, u in update.items()}, state
