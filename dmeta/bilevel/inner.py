"""The inner problem of one task, and the optimisers that solve it. Pure and differentiable.

An algorithm states an `InnerProblem`; a solver (`solvers.py`) walks it; how the walk is
differentiated is the solver's choice, not the algorithm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from dmeta.bilevel.types import Adapted, Outcome, Params
from dmeta.randomness import numbers_for

State: TypeAlias = Any


class InnerOptimizer(Protocol):
    """A pure update rule: gradients and state in, parameters and state out."""

    def init(self, params: Params) -> State:
        """The state before the first step (a pytree of tensors)."""
        ...

    def update(
        self, params: Params, gradients: Params, state: State, step: int
    ) -> tuple[Params, State]:
        """One step; `step` counts from 0. Nothing is changed in place."""
        ...


@dataclass(frozen=True)
class InnerProblem:
    """What one task asks to be minimised.

    Attributes:
        objective: (iterate, step) -> scalar support loss. The step lets it choose a mini-batch.
        start: the first iterate; may depend differentiably on the meta-parameters.
        optimizer: the update rule.
        num_steps: how many steps to take (0 is allowed).
        finish: (iterate, steps taken) -> what the algorithm's `predict` reads.
        depends_on_meta: whether the objective depends on the meta-parameters other than through
            the iterate.
        loss_weights: number of steps -> weight in the meta-loss of the query loss after so many,
            in rising order up to `num_steps`; None: the query loss after the last step alone.
    """

    objective: Callable[[Params, int], torch.Tensor]
    start: Params
    optimizer: InnerOptimizer
    num_steps: int
    finish: Callable[[Params, int], Adapted]
    depends_on_meta: bool = False
    loss_weights: Mapping[int, float] | None = None

    def loss(self, iterate: Params, step: int) -> torch.Tensor:
        """The objective at one step; what it draws is the same whenever it is computed."""
        with numbers_for(f"step {step}"):
            return self.objective(iterate, step)

    @property
    def judged(self) -> tuple[int, ...]:
        """Numbers of steps after which the iterate enters the meta-loss."""
        return (self.num_steps,) if self.loss_weights is None else tuple(self.loss_weights)

    def outcome(self, iterates: Mapping[int, Params]) -> Adapted | Outcome:
        """What `adapt` returns, of the iterates after the `judged` numbers of steps."""
        states = tuple(self.finish(iterates[steps], steps) for steps in self.judged)
        if self.loss_weights is None:
            return states[-1]
        return Outcome(states, tuple(self.loss_weights.values()))


@dataclass(frozen=True)
class PulledBack:
    """Another rule, after whose last step the iterate is moved back towards its start.

    w <- w - rate * strength * (w - start): a step on strength/2 |w - start|^2.

    Attributes:
        optimizer: the rule.
        start: the first iterate.
        rate: (parameter, step) -> step size, in units of w per unit of gradient.
        strength: lambda of the proximal term.
        num_steps: steps that the rule takes.
    """

    optimizer: InnerOptimizer
    start: Params
    rate: Callable[[str, int], float | torch.Tensor]
    strength: float
    num_steps: int

    def init(self, params: Params) -> State:
        """The rule's."""
        return self.optimizer.init(params)

    def update(
        self, params: Params, gradients: Params, state: State, step: int
    ) -> tuple[Params, State]:
        """One step of the rule, and after the last one the way back."""
        params, state = self.optimizer.update(params, gradients, state, step)
        if step < self.num_steps - 1:
            return params, state
        return {
            n: p - self.rate(n, step) * self.strength * (p - self.start[n])
            for n, p in params.items()
        }, state
