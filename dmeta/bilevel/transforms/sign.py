"""The sign of the update: every weight moves by the rate.

signSGD, Bernstein et al. 2018 (arXiv:1802.04434), algorithm 1.

    u <- min(1, max(-1, u / threshold))

Below the threshold the update is proportional, so that rounding errors about 0 move nothing. Above
it the derivative is 0: the exact meta-gradient is then the first-order one.

Differs from the paper: the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveFloat
from torch import Tensor

from dmeta.bilevel.inner import State
from dmeta.bilevel.types import Params
from dmeta.options import check_fields


@dataclass(frozen=True)
class Sign:
    """Keeps the sign alone.

    Attributes:
        threshold: below it, an update is divided by this number.
    """

    threshold: PositiveFloat = 1e-6

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
        return {n: (u / self.threshold).clamp(-1.0, 1.0) for n, u in update.items()}, state
