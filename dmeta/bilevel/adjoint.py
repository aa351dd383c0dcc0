"""Pulling a gradient back through an inner loop that was walked without a graph.

The forward walk keeps some iterates; the backward sweep computes the others again, and of each step
only what it needs to hand a cotangent on. What a step is made of,

    g_k = grad_w objective(theta, w_k),   (w_{k+1}, s_{k+1}) = update(theta, w_k, g_k, s_k),

is pulled back in two parts: the update rule by automatic differentiation, the inner gradient by a
`GradientPull`, of which there is one for each way to get (or to leave out) a product with the
second derivative. Everything runs under `torch.func.vmap`; nothing is changed in place.

Letters: theta meta-parameters, w iterate, s optimiser state, K inner steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dmeta.bilevel.inner import InnerProblem, State
from dmeta.bilevel.linear import add, norm, plus, zeros_like
from dmeta.bilevel.types import Params

ProblemAt: TypeAlias = Callable[[Params], InnerProblem]
"""Theta -> the inner problem of one task."""


class Products(NamedTuple):
    """A cotangent u of an inner gradient, pulled back.

    Attributes:
        meta: u^T d(grad_w objective)/d theta.
        iterate: u^T d(grad_w objective)/d w, the Hessian-vector product.
    """

    meta: Params
    iterate: Params


Pull: TypeAlias = Callable[[Params], Products]

GradientPull: TypeAlias = Callable[[ProblemAt, Params, Params, int], tuple[Params, Pull]]
"""(problem, theta, w, step) -> the inner gradient there, and how to pull a cotangent through it."""


def vjp(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """`torch.func.vjp` of a function without auxiliary output (its own type is wider)."""
    value, pull = cast(Any, torch.func.vjp(function, *primals))
    return value, pull


def exact_pull(
    problem_at: ProblemAt, meta: Params, iterate: Params, step: int
) -> tuple[Params, Pull]:
    """Second derivatives by reverse mode over reverse mode."""

    def gradient(theta: Params, w: Params) -> Params:
        problem = problem_at(theta)
        g: Params = torch.func.grad(lambda v: problem.objective(v, step))(dict(w))
        return g

    value, pull = vjp(gradient, dict(meta), dict(iterate))
    return value, lambda u: Products(*pull(dict(u)))


def constant_pull(
    problem_at: ProblemAt, meta: Params, iterate: Params, step: int
) -> tuple[Params, Pull]:
    """Inner gradients taken for constants: first order."""
    value = _gradients(problem_at, meta, iterate, step).iterate
    nothing = Products(zeros_like(meta), zeros_like(iterate))

    def pull(u: Params) -> Products:  # noqa: ARG001 - whatever u is
        return nothing

    return value, pull


def difference_pull(relative_step: float) -> GradientPull:
    """Second derivatives by central differences of two gradients.

    Products with the symmetric Hessian and with the mixed derivative are both derivatives of
    ordinary gradients along u (HF-MAML, Fallah, Mokhtari & Ozdaglar 2020, arXiv:1908.10400,
    section 5):  d/de grad objective(theta, w + e u).

    Args:
        relative_step: length of the step e u, over max(1, |w|).
    """

    def pull_at(
        problem_at: ProblemAt, meta: Params, iterate: Params, step: int
    ) -> tuple[Params, Pull]:
        value = _gradients(problem_at, meta, iterate, step).iterate

        def pull(u: Params) -> Products:
            length = relative_step * norm(iterate).clamp(min=1.0)
            # A cotangent of 0 has products of 0, whatever the step.
            e = length / norm(u).clamp(min=torch.finfo(length.dtype).tiny)
            ahead, behind = (
                _gradients(problem_at, meta, plus(iterate, sign * e, u), step)
                for sign in (1.0, -1.0)
            )
            difference = pytree.tree_map(lambda a, b: (a - b) / (2 * e), ahead, behind)
            return Products(*difference)

        return value, pull

    return pull_at


class Walk(NamedTuple):
    """A forward walk without a graph.

    Attributes:
        judged: w_k for the numbers of steps k whose query loss enters the meta-loss.
        kept: (w_k, s_k) of every `every`-th step, from k = 0.
        every: distance of the kept ones.
    """

    judged: dict[int, Params]
    kept: list[tuple[Params, State]]
    every: int


def walk(problem: InnerProblem, every: int | None = None) -> Walk:
    """Take all steps of the problem, whose tensors need no gradient.

    Args:
        problem: the inner problem.
        every: distance of the iterates that are kept; None: the root of K, rounded up, which keeps
            the fewest in all.
    """
    every = max(1, math.isqrt(max(problem.num_steps - 1, 0)) + 1) if every is None else every
    iterate, state = problem.start, problem.optimizer.init(problem.start)
    kept = []
    judged = {0: iterate} if 0 in problem.judged else {}
    for step in range(problem.num_steps):
        if step % every == 0:
            kept.append((iterate, state))
        iterate, state = _step(problem, iterate, state, step)
        if step + 1 in problem.judged:
            judged[step + 1] = iterate
    return Walk(judged, kept, every)


def sweep(
    problem_at: ProblemAt,
    meta: Params,
    walked: Walk,
    cotangents: Mapping[int, Params],
    gradient_pull: GradientPull,
    last: int | None = None,
    window: int | None = None,
) -> Params:
    """Pull cotangents of iterates back to theta: sum_k v_k^T d w_k / d theta.

    Memory is that of one step, and of the iterates and states that the walk has kept.

    Args:
        problem_at: the inner problem as a function of theta.
        meta: theta.
        walked: the walk at theta.
        cotangents: k -> v_k, that of w_K among them.
        gradient_pull: how inner gradients are pulled back.
        last: of the last so many steps of a window only, the others' are constants; None: of all.
        window: a cotangent is pulled through the steps of its own window, so many steps from the
            first on, no further: not through the iterate and state before; None: one window.
    """
    problem = problem_at(meta)
    window = problem.num_steps if window is None else window
    total = zeros_like(meta)
    v_iterate: Params = cotangents[problem.num_steps]
    v_state: State = pytree.tree_map(torch.zeros_like, problem.optimizer.init(problem.start))
    for first in reversed(range(0, problem.num_steps, walked.every)):
        steps = range(first, min(first + walked.every, problem.num_steps))
        for step, (iterate, state) in reversed(list(_again(problem, walked, steps))):
            end = min(step - step % window + window, problem.num_steps)
            is_constant = last is not None and step < end - last
            pull_at = constant_pull if is_constant else gradient_pull
            gradient, pull = pull_at(problem_at, meta, iterate, step)
            of_meta, v_iterate, v_gradient, v_state = _pull_update(
                problem_at, meta, iterate, gradient, state, step, (v_iterate, v_state)
            )
            products = pull(v_gradient)
            v_iterate = add(v_iterate, products.iterate)
            if step > 0 and step % window == 0:
                v_iterate, v_state = pytree.tree_map(torch.zeros_like, (v_iterate, v_state))
            if step in cotangents:
                v_iterate = add(v_iterate, cotangents[step])
            total = add(add(total, of_meta), products.meta)
    _, pull_start = vjp(lambda theta: dict(problem_at(theta).start), dict(meta))
    (of_start,) = pull_start(dict(v_iterate))
    return add(total, of_start)


def _again(
    problem: InnerProblem, walked: Walk, steps: range
) -> list[tuple[int, tuple[Params, State]]]:
    """Iterate and state before each of the steps, from the kept ones before the first."""
    iterate, state = walked.kept[steps[0] // walked.every]
    states = []
    for step in steps:
        states.append((step, (iterate, state)))
        if step != steps[-1]:
            iterate, state = _step(problem, iterate, state, step)
    return states


def _step(problem: InnerProblem, iterate: Params, state: State, step: int) -> tuple[Params, State]:
    g: Params = torch.func.grad(lambda w: problem.objective(w, step))(dict(iterate))
    return problem.optimizer.update(iterate, g, state, step)


def _pull_update(
    problem_at: ProblemAt,
    meta: Params,
    iterate: Params,
    gradient: Params,
    state: State,
    step: int,
    cotangents: tuple[Params, State],
) -> tuple[Params, Params, Params, State]:
    """Cotangents of (theta, w, g, s) from those of the update's results."""

    def update(theta: Params, w: Params, g: Params, s: State) -> tuple[Params, State]:
        moved, after = problem_at(theta).optimizer.update(w, g, s, step)
        return dict(moved), after

    _, pull = vjp(update, dict(meta), dict(iterate), dict(gradient), state)
    pulled: tuple[Params, Params, Params, State] = pull((dict(cotangents[0]), cotangents[1]))
    return pulled


def _gradients(problem_at: ProblemAt, meta: Params, iterate: Params, step: int) -> Products:
    """Gradients of the objective with respect to theta and w."""

    def objective(theta: Params, w: Params) -> Tensor:
        return problem_at(theta).objective(w, step)

    return Products(*torch.func.grad(objective, argnums=(0, 1))(dict(meta), dict(iterate)))
