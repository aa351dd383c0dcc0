"""The learning rate: the update is multiplied by it. A constant, or meta-learned.

    u <- rate u

Meta-SGD (Li et al. 2017, arXiv:1707.09835, eq. 3) has one for every element, MAML++ (Antoniou
et al. 2019, arXiv:1810.09502, section 4) one for every tensor and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import PositiveFloat
from torch import Tensor

from dmeta.bilevel.chain import is_carried
from dmeta.bilevel.inner import State
from dmeta.bilevel.types import Params
from dmeta.options import check_fields

RATE = "inner_lr/"
"""Prefix of the meta-parameters that are learned rates."""

Learned: TypeAlias = Literal["per_tensor", "per_tensor_and_step", "per_element"]


@dataclass(frozen=True)
class Rate:
    """Multiplies by a rate.

    Attributes:
        inner_lr: the rate, or the initial value of learned ones.
        learn_inner_lr: meta-learn the rates: one ``per_tensor``, one ``per_tensor_and_step`` (the
            last serves all later steps) or one ``per_element``; None: they stay `inner_lr`.
    """

    inner_lr: PositiveFloat = 0.01
    learn_inner_lr: Learned | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm")

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """Rates ``inner_lr/<name>``: [], [num_steps] or of the parameter's shape."""
        if self.learn_inner_lr is None:
            return {}
        rates = {}
        for name, p in params.items():
            shape = {
                "per_tensor": (),
                "per_tensor_and_step": (num_steps,),
                "per_element": tuple(p.shape),
            }[self.learn_inner_lr]
            rates[RATE + name] = p.new_full(shape, self.inner_lr)
        return rates

    def init(self, params: Params) -> State:
        """None."""
        return ()

    def update(
        self,
        update: Params,
        state: State,
        params: Params,
        step: int,
        meta: Params,
    ) -> tuple[Params, State]:
        """One step."""
        return {
            name: u if is_carried(name) else self.at(name, step, meta) * u
            for name, u in update.items()
        }, state

    def at(self, name: str, step: int, meta: Params) -> float | Tensor:
        """The rate of a parameter at a step; a tensor broadcasts with the parameter."""
        if self.learn_inner_lr is None:
            return self.inner_lr
        rate = meta[RATE + name]
        is_row = self.learn_inner_lr == "per_tensor_and_step"
        return rate[min(step, len(rate) - 1)] if is_row else rate
