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

MOMENT = "inner_moment/"
"""Prefix of second moments that are part of an iterate."""

MOMENT_WEIGHTS = "inner_moment_weights"
"""Name of the sum of their weights."""


class Rates(Protocol):
    """Step sizes."""

    def __call__(self, name: str, step: int) -> float | torch.Tensor:
        """That of one parameter at one step; a tensor broadcasts with the parameter."""
        ...


@dataclass(frozen=True)
class ConstantRate:
    """The same step size for every parameter and step.

    Attributes:
        lr: the step size.
    """

    lr: float

    def __call__(self, name: str, step: int) -> float:  # noqa: ARG002 - the protocol's signature
        """The step size."""
        return self.lr


@dataclass(frozen=True)
class LearnedRates:
    """Step sizes that are tensors, and may be differentiated.

    Attributes:
        rates: name -> tensor.
        per_step: whether the tensors' first axis is the step; its last row serves all later ones.
    """

    rates: Params
    per_step: bool

    def __call__(self, name: str, step: int) -> torch.Tensor:
        """The parameter's tensor, or its row."""
        rate = self.rates[name]
        return rate[min(step, len(rate) - 1)] if self.per_step else rate


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
class InnerSGD:
    """Gradient descent: v <- momentum * v + g, w <- w - lr * v (torch.optim.SGD's convention).

    Attributes:
        rates: step sizes, in units of w per unit of gradient.
        momentum: what remains of the last step's direction (0: none).
    """

    rates: Rates
    momentum: float = 0.0

    def init(self, params: Params) -> State:
        """Zero velocities; none without momentum."""
        return {n: torch.zeros_like(p) for n, p in params.items()} if self.momentum else {}

    def update(
        self, params: Params, gradients: Params, state: State, step: int
    ) -> tuple[Params, State]:
        """One step of gradient descent."""
        if self.momentum:
            state = gradients = {n: self.momentum * state[n] + g for n, g in gradients.items()}
        return {n: p - self.rates(n, step) * gradients[n] for n, p in params.items()}, state


@dataclass(frozen=True)
class Clipped:
    """Another rule, fed with gradients scaled down to a 2-norm of at most `max_norm`.

    Attributes:
        optimizer: the rule.
        max_norm: bound on the norm over all tensors together.
    """

    optimizer: InnerOptimizer
    max_norm: float

    def init(self, params: Params) -> State:
        """The rule's."""
        return self.optimizer.init(params)

    def update(
        self, params: Params, gradients: Params, state: State, step: int
    ) -> tuple[Params, State]:
        """One step of the rule."""
        squares = torch.stack([g.square().sum() for g in gradients.values()]).sum()
        # The root of 0 has an infinite derivative; 0 gradients are not clipped anyway.
        scale = self.max_norm * squares.clamp(min=self.max_norm**2).rsqrt()
        scaled = {name: scale * g for name, g in gradients.items()}
        return self.optimizer.update(params, scaled, state, step)


@dataclass(frozen=True)
class PulledBack:
    """Another rule, after whose last step the iterate is moved back towards its start.

    w <- w - rate * strength * (w - start): a step on strength/2 |w - start|^2.

    Attributes:
        optimizer: the rule.
        start: the first iterate.
        rates: step sizes, in units of w per unit of gradient.
        strength: lambda of the proximal term.
        num_steps: steps that the rule takes.
    """

    optimizer: InnerOptimizer
    start: Params
    rates: Rates
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
            n: p - self.rates(n, step) * self.strength * (p - self.start[n])
            for n, p in params.items()
        }, state


@dataclass(frozen=True)
class InnerAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), from zero moments for every task.

    Attributes:
        rates: step sizes, in units of w.
        beta1: decay of the first moment; 0 in Reptile (Nichol et al. 2018, section 6.1).
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
    """

    rates: Rates
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
            - self.rates(n, step)
            * (first[n] / correct1)
            / ((second[n] / correct2 + self.eps**2).sqrt() + self.eps)
            for n, p in params.items()
        }
        return moved, (first, second)


@dataclass(frozen=True)
class CarriedAdam:
    """Adam with beta1 = 0 whose second moments are part of the iterate.

    So they need not start from nothing: what adapts to a task hands them on like the weights, as
    Reptile's code does (Nichol et al. 2018, section 6.1, github.com/openai/supervised-reptile),
    where one optimiser serves all tasks. For each parameter the iterate also has its uncorrected
    moment, and one number, the sum of the moments' weights, that corrects them (1 - beta2^t in the
    paper on Adam, whatever has been averaged since).

    Attributes:
        rates: step sizes, in units of w.
        beta2: decay of the second moment.
        eps: added to its root.
    """

    rates: Rates
    beta2: float = 0.999
    eps: float = 1e-8

    def init(self, params: Params) -> State:  # noqa: ARG002 - the protocol's signature
        """No state besides the iterate."""
        return {}

    def update(
        self, params: Params, gradients: Params, state: State, step: int
    ) -> tuple[Params, State]:
        """One step."""
        total = self.beta2 * params[MOMENT_WEIGHTS] + (1 - self.beta2)
        after = {MOMENT_WEIGHTS: total}
        for name in (n for n in params if MOMENT + n in params):
            g = gradients[name]
            second = self.beta2 * params[MOMENT + name].clamp(min=0) + (1 - self.beta2) * g * g
            root = (second / total + self.eps**2).sqrt() + self.eps
            after[name] = params[name] - self.rates(name, step) * g / root
            after[MOMENT + name] = second
        return {name: after[name] for name in params}, state


def no_moments(params: Params) -> dict[str, torch.Tensor]:
    """The moments of parameters that have not been moved yet, as `CarriedAdam` names them."""
    some = next(iter(params.values()))
    zeros = {MOMENT + name: torch.zeros_like(p) for name, p in params.items()}
    return {**zeros, MOMENT_WEIGHTS: some.new_zeros(())}
