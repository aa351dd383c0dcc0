"""Adadelta: updates in units of the weights (Zeiler 2012, arXiv:1212.5701, algorithm 1).

    v <- rho v + (1 - rho) u^2
    u <- sqrt(d + eps) / sqrt(v + eps) u
    d <- rho d + (1 - rho) u^2

From v = d = 0 for every task. eps is under both roots, whose derivatives are finite so.
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
class Adadelta:
    """Scales by the root mean square of past updates over that of past gradients.

    Attributes:
        rho: decay of both means.
        eps: added to both.
    """

    rho: Annotated[float, Field(ge=0, lt=1)] = 0.9
    eps: PositiveFloat = 1e-6

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm.inner_chain")

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def init(self, params: Params) -> State:
        """Zero means of squares, of the gradients and of the updates."""
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        return zeros, zeros

    def update(
        self, update: Params, state: State, params: Params, step: int, meta: Params
    ) -> tuple[Params, State]:
        """One step."""
        squares, deltas = state
        squares = {n: self.rho * squares[n] + (1 - self.rho) * u * u for n, u in update.items()}
        scaled = {
            n: (deltas[n] + self.eps).sqrt() / (squares[n] + self.eps).sqrt() * u
            for n, u in update.items()
        }
        deltas = {n: self.rho * deltas[n] + (1 - self.rho) * u * u for n, u in scaled.items()}
        return scaled, (squares, deltas)
