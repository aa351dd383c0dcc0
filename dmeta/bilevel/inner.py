"""The inner problem of one task, and the optimisers that walk it. Pure and differentiable.

An algorithm states an `InnerProblem`; a solver (`solvers.py`) walks it; how the walk is
differentiated is the solver's choice, not the algorithm's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from dmeta.bilevel.types import Adapted, Params

State: TypeAlias = Any


class InnerOptimizer(Protocol):
    """A pure update rule: gradients and state in, parameters and state out."""

    def init(self, params: Params) -> State:
        """The state before the first step (a pytree of tensors, or None)."""
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
        finish: iterate -> what the algorithm's `predict` reads.
    """

    objective: Callable[[Params, int], torch.Tensor]
    start: Params
    optimizer: InnerOptimizer
    num_steps: int
    finish: Callable[[Params], Adapted]


@dataclass(frozen=True)
class InnerSGD:
    """Gradient descent: w <- w - lr * g.

    Attributes:
        lr: step size, in units of w per unit of gradient.
    """

    lr: float

    def init(self, params: Params) -> State:  # noqa: ARG002 - the protocol's signature
        """No state."""
        return None

    def update(
        self,
        params: Params,
        gradients: Params,
        state: State,
        step: int,  # noqa: ARG002
    ) -> tuple[Params, State]:
        """One step of gradient descent."""
        return {name: p - self.lr * gradients[name] for name, p in params.items()}, state


@dataclass(frozen=True)
class InnerAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), from zero moments for every task.

    Attributes:
        lr: step size, in units of w.
        beta1: decay of the first moment; 0 in Reptile (Nichol et al. 2018, section 6.1).
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
    """

    lr: float
    beta1: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-8

    def init(self, params: Params) -> State:
        """Zero first and second moments."""
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        return zeros, zeros

    def update(
        self, params: Params, gradients: Params, state: State, step: int
    ) -> tuple[Params, State]:
        """One step of Adam with bias correction."""
        first, second = state
        first = {n: self.beta1 * first[n] + (1 - self.beta1) * g for n, g in gradients.items()}
        second = {
            n: self.beta2 * second[n] + (1 - self.beta2) * g * g for n, g in gradients.items()
        }
        correct1, correct2 = 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)
        # The root of 0 has an infinite derivative: eps^2 inside keeps the exact meta-gradient
        # finite where a weight has no gradient, and moves the root by at most eps elsewhere.
        moved = {
            n: p
            - self.lr
            * (first[n] / correct1)
            / ((second[n] / correct2 + self.eps**2).sqrt() + self.eps)
            for n, p in params.items()
        }
        return moved, (first, second)
