"""Weight decay: a multiple of the weights is added to the update.

    u <- u + strength w

Before ``adam`` or ``momentum`` this is the gradient of an L2 penalty strength/2 |w|^2; after them,
before ``rate``, it is decoupled (AdamW, Loshchilov & Hutter 2019, arXiv:1711.05101).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import NonNegativeFloat
from torch import Tensor

from dmeta.bilevel.inner import State
from dmeta.bilevel.types import Params
from dmeta.options import check_fields


@dataclass(frozen=True)
class WeightDecay:
    """Adds a multiple of the weights.

    Attributes:
        strength: the multiple.
    """

    strength: NonNegativeFloat = 0.01

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
        return {name: u + self.strength * params[name] for name, u in update.items()}, state
