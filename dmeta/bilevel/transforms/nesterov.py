"""Nesterov's momentum, as torch.optim.SGD has it (Sutskever et al. 2013, ICML).

    v <- decay v + u,   u <- u + decay v

From v = 0 for every task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from dmeta.bilevel.inner import State
from dmeta.bilevel.types import Params
from dmeta.options import check_fields


@dataclass(frozen=True)
class Nesterov:
    """A sum of the updates so far, one step ahead.

    Attributes:
        decay: what remains of the last step's direction.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm.inner_chain")

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def init(self, params: Params) -> State:
        """Zero velocities."""
        return {name: torch.zeros_like(p) for name, p in params.items()}

    def update(
        self, update: Params, state: State, params: Params, step: int, meta: Params
    ) -> tuple[Params, State]:
        """One step."""
        velocity = {name: self.decay * state[name] + u for name, u in update.items()}
        return {name: u + self.decay * velocity[name] for name, u in update.items()}, velocity
