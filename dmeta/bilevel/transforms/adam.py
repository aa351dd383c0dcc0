"""Adam: the mean of the updates over the root of the mean of their squares.

Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization" (arXiv:1412.6980), algorithm 1, from
zero moments for every task:

    m <- beta1 m + (1 - beta1) u,   v <- beta2 v + (1 - beta2) u^2
    u <- m / (1 - beta1^k) / (sqrt(v / (1 - beta2^k) + eps^2) + eps)     at step k = 1, 2, ...

Differs from the paper: eps^2 under the root. The root of 0 has an infinite derivative: so the exact
meta-gradient stays finite where a weight has no gradient; elsewhere the root moves by at most eps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from dmeta.bilevel.inner import State
from dmeta.bilevel.transforms.ratio import Ratio, divided
from dmeta.bilevel.types import Params
from dmeta.options import check_fields

Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Adam:
    """Divides a mean of the updates by the root of their mean square.

    Attributes:
        beta1: decay of the first moment; 0 in Reptile (Nichol et al. 2018, section 6.1).
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
    """

    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: PositiveFloat = 1e-8

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm.inner_chain")

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def init(self, params: Params) -> State:
        """Zero first and second moments."""
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        return zeros, zeros

    def update(
        self,
        update: Params,
        state: State,
        params: Params,
        step: int,
        meta: Params,
    ) -> tuple[Params, State]:
        """One step."""
        return divided(self.ratio(update, state, params, step))

    def ratio(self, update: Params, state: State, params: Params, step: int) -> Ratio:
        """The corrected first moment, and the root of the corrected second one."""
        first, second = state
        first = {n: self.beta1 * first[n] + (1 - self.beta1) * u for n, u in update.items()}
        second = {n: self.beta2 * second[n] + (1 - self.beta2) * u * u for n, u in update.items()}
        correct1, correct2 = 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)
        means = {n: m / correct1 for n, m in first.items()}
        roots = {n: (v / correct2 + self.eps**2).sqrt() + self.eps for n, v in second.items()}
        return Ratio(means, roots, (first, second))
