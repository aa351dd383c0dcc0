"""Rules that divide: an update that is a mean over a root, and where a rate multiplies it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from dmeta.bilevel.chain import Transform
from dmeta.bilevel.inner import State
from dmeta.bilevel.transforms.rate import Rate
from dmeta.bilevel.types import Params


class Ratio(NamedTuple):
    """An update before it is divided.

    Attributes:
        means: numerators.
        roots: denominators.
        state: the rule's state after the step.
    """

    means: Params
    roots: Params
    state: State


class Dividing(Transform, Protocol):
    """A transform whose update is a ratio."""

    def ratio(self, update: Params, state: State, params: Params, step: int) -> Ratio:
        """One step, but for the division."""
        ...


def divided(ratio: Ratio) -> tuple[Params, State]:
    """The update and the state of a ratio."""
    return {name: mean / ratio.roots[name] for name, mean in ratio.means.items()}, ratio.state


@dataclass(frozen=True)
class Rated:
    """A rule that divides, its rate inside the division: (rate m) / root.

    Rounded otherwise than rate (m / root), which is what the two make as links of a chain: it is
    how ``inner_optimizer=adam`` has always computed.

    Attributes:
        rule: divides.
        rate: multiplies.
    """

    rule: Dividing
    rate: Rate

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """The rate's and the rule's."""
        return self.rate.meta_parameters(params, num_steps) | self.rule.meta_parameters(
            params, num_steps
        )

    def init(self, params: Params) -> State:
        """The rule's."""
        return self.rule.init(params)

    def update(
        self, update: Params, state: State, params: Params, step: int, meta: Params
    ) -> tuple[Params, State]:
        """One step."""
        means, roots, state = self.rule.ratio(update, state, params, step)
        rated, _ = self.rate.update(means, (), params, step, meta)
        return {name: mean / roots[name] for name, mean in rated.items()}, state
