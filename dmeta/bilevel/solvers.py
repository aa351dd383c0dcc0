"""Solvers: ways to walk an inner problem that differ in what the walk's derivative is.

Every solver takes an `InnerProblem` to the adapted state of its last iterate, with the same
numbers; they differ only in the derivative with respect to the problem's start and to whatever its
objective closes over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from dmeta.bilevel.inner import InnerProblem
from dmeta.bilevel.types import Adapted, Params

Solver: TypeAlias = Callable[[InnerProblem], Adapted]


def unrolled(problem: InnerProblem) -> Adapted:
    """The derivative is exact: through every step, second-order terms included.

    MAML, Finn et al. 2017 (arXiv:1703.03400), eq. 1.
    """
    return _walk(problem, _exact, lambda _: None)


def stop_gradient(problem: InnerProblem) -> Adapted:
    """The derivative takes every inner gradient for a constant (first-order MAML).

    Finn et al. 2017, section 5.2; Nichol et al. 2018 (arXiv:1803.02999), eq. 7.
    """
    return _walk(problem, _detached, lambda _: None)


def recording(observe: Callable[[Adapted], None]) -> Solver:
    """A solver without derivative that shows `observe` the adapted state after 0, 1, ... steps."""

    def solve(problem: InnerProblem) -> Adapted:
        return _walk(problem, _detached, observe)

    return solve


def _exact(problem: InnerProblem, iterate: Params, step: int) -> Params:
    gradients: Params = torch.func.grad(lambda w: problem.objective(w, step))(dict(iterate))
    return gradients


def _detached(problem: InnerProblem, iterate: Params, step: int) -> Params:
    # Detached before as well as after: then nothing of the inner forward pass is kept for the
    # outer derivative, and a step costs no more than ordinary training.
    still = {name: w.detach() for name, w in iterate.items()}
    return {name: g.detach() for name, g in _exact(problem, still, step).items()}


def _walk(
    problem: InnerProblem,
    gradient: Callable[[InnerProblem, Params, int], Params],
    observe: Callable[[Adapted], None],
) -> Adapted:
    iterate, state = problem.start, problem.optimizer.init(problem.start)
    adapted = problem.finish(iterate)
    observe(adapted)
    for step in range(problem.num_steps):
        gradients = gradient(problem, iterate, step)
        iterate, state = problem.optimizer.update(iterate, gradients, state, step)
        adapted = problem.finish(iterate)
        observe(adapted)
    return adapted
