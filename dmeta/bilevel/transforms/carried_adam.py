"""Adam without a first moment, whose second moments are learned along with the weights.

So they need not start from nothing: what adapts to a task hands them on like the weights, as
Reptile's code does (Nichol et al. 2018, section 6.1, github.com/openai/supervised-reptile), where
one optimiser serves all tasks. For each parameter the iterate also has its uncorrected moment v,
and one number t, the sum of the moments' weights, that corrects them (1 - beta2^k in the paper on
Adam, whatever has been averaged since):

    t <- beta2 t + (1 - beta2),   v <- beta2 v + (1 - beta2) u^2
    u <- u / (sqrt(v / t + eps^2) + eps)

For ``gradient=displacement``: with any other meta-gradient the moments would stay zero, which a run
refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from dmeta.bilevel.chain import CARRIED
from dmeta.bilevel.inner import State
from dmeta.bilevel.transforms.adam import Decay
from dmeta.bilevel.transforms.ratio import Ratio, divided
from dmeta.bilevel.types import Params
from dmeta.options import check_fields

MOMENT = CARRIED + "/"
"""Prefix of the second moments."""

MOMENT_WEIGHTS = CARRIED + "_weights"
"""Name of the sum of their weights."""


@dataclass(frozen=True)
class CarriedAdam:
    """Divides the update by the root of its mean square, which the task before has left.

    Attributes:
        beta2: decay of the second moment.
        eps: added to its root.
    """

    beta2: Decay = 0.999
    eps: PositiveFloat = 1e-8

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm.inner_chain")

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """The moments of parameters that have not been moved yet, and the sum of their weights."""
        some = next(iter(params.values()))
        zeros = {MOMENT + name: torch.zeros_like(p) for name, p in params.items()}
        return {**zeros, MOMENT_WEIGHTS: some.new_zeros(())}

    def init(self, params: Params) -> State:
        """The moments that the iterate starts with."""
        return {name: p for name, p in params.items() if name.startswith(CARRIED)}

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
        """The update, and the root of the corrected second moment."""
        total = self.beta2 * state[MOMENT_WEIGHTS] + (1 - self.beta2)
        after, roots = {MOMENT_WEIGHTS: total}, {}
        means = {name: u for name, u in update.items() if MOMENT + name in state}
        for name, u in means.items():
            second = self.beta2 * state[MOMENT + name].clamp(min=0) + (1 - self.beta2) * u * u
            roots[name] = (second / total + self.eps**2).sqrt() + self.eps
            after[MOMENT + name] = second
        return Ratio(means, roots, {name: after[name] for name in state})
