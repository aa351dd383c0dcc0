"""RMSprop, as torch.optim.RMSprop has it (Tieleman & Hinton 2012, lecture 6.5).

    v <- decay v + (1 - decay) u^2,   u <- u / (sqrt(v + eps^2) + eps)

From v = 0 for every task.

Differs from torch: eps^2 under the root, so that its derivative is finite at 0 (see `adam`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from dmeta.bilevel.inner import State
from dmeta.bilevel.types import Params
from dmeta.options import check_fields


@dataclass(frozen=True)
class RMSprop:
    """Divides by the root of a mean square.

    Attributes:
        decay: of the mean square.
        eps: added to its root.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    eps: PositiveFloat = 1e-8

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm.inner_chain")

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def init(self, params: Params) -> State:
        """Zero mean squares."""
        return {name: torch.zeros_like(p) for name, p in params.items()}

    def update(
        self, update: Params, state: State, params: Params, step: int, meta: Params
    ) -> tuple[Params, State]:
        """One step."""
        squares = {n: self.decay * state[n] + (1 - self.decay) * u * u for n, u in update.items()}
        return {
            n: u / ((squares[n] + self.eps**2).sqrt() + self.eps) for n, u in update.items()
        }, squares
