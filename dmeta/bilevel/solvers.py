"""Solvers: ways to run an inner loop that differ in how the result is differentiated.

Every solver takes an `InnerProblem` to the adapted state of its last iterate, with the same
numbers; they differ only in the derivative with respect to the problem's start and to whatever its
objective closes over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

import torch

from dmeta.bilevel.inner import InnerProblem
from dmeta.bilevel.types import Adapted, Outcome, Params

Solver: TypeAlias = Callable[[InnerProblem], Adapted | Outcome]


def unrolled(problem: InnerProblem) -> Adapted | Outcome:
    """The derivative is exact: through every step, second-order terms included.

    MAML, Finn et al. 2017 (arXiv:1703.03400), eq. 1.
    """
    return problem.outcome(_walk(problem, _exact))


def stop_gradient(problem: InnerProblem) -> Adapted | Outcome:
    """The derivative takes every inner gradient for a constant (first-order MAML).

    Finn et al. 2017, section 5.2; Nichol et al. 2018 (arXiv:1803.02999), eq. 7.
    """
    return problem.outcome(_walk(problem, _detached))


def recording(observe: Callable[[Adapted], None]) -> Solver:
    """A solver without derivative that shows `observe` the adapted state after 0, 1, ... steps.

    Of a method with several inner problems, one after the other, only the first is shown at 0: each
    starts where the one before ended.
    """
    seen: list[InnerProblem] = []

    def solve(problem: InnerProblem) -> Adapted:
        states = []
        for steps, iterate in _walk(problem, _detached, range(problem.num_steps + 1)).items():
            states.append(problem.finish(iterate, steps))
            if steps > 0 or not seen:
                observe(states[-1])
        seen.append(problem)
        return states[-1]

    return solve


def _exact(problem: InnerProblem, iterate: Params, step: int) -> Params:
    gradients: Params = torch.func.grad(lambda w: problem.loss(w, step))(dict(iterate))
    return gradients


def _detached(problem: InnerProblem, iterate: Params, step: int) -> Params:
    # Detached before as well as after: then nothing of the inner forward pass is kept for the
    # outer derivative, and a step costs no more than ordinary training.
    still = {name: w.detach() for name, w in iterate.items()}
    return {name: g.detach() for name, g in _exact(problem, still, step).items()}


def _walk(
    problem: InnerProblem,
    gradient: Callable[[InnerProblem, Params, int], Params],
    kept: Collection[int] | None = None,
) -> dict[int, Params]:
    """Number of steps -> iterate, for those in `kept`; None: those that enter the meta-loss."""
    kept = problem.judged if kept is None else kept
    iterate, state = problem.start, problem.optimizer.init(problem.start)
    iterates = {0: iterate} if 0 in kept else {}
    for step in range(problem.num_steps):
        gradients = gradient(problem, iterate, step)
        iterate, state = problem.optimizer.update(iterate, gradients, state, step)
        if step + 1 in kept:
            iterates[step + 1] = iterate
    return iterates
