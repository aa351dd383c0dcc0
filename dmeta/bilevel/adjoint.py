"""Pulls a gradient back through an inner loop that was run without a graph.

The forward walk keeps some iterates; the backward sweep computes the others again, and of each step

    g_k = grad_w objective(theta, w_k),   (w_{k+1}, s_{k+1}) = update(theta, w_k, g_k, s_k)

only what it needs to hand a cotangent on. How that is done is a `StepPull`'s, of which there is one
for each way to get (or to leave out) a product with the second derivative. Everything runs under
`torch.func.vmap`; nothing is changed in place.

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


class InnerPoint(NamedTuple):
    """Where the inner loop stands after k steps, or the cotangents of that.

    Attributes:
        iterate: w_k.
        state: s_k.
    """

    iterate: Params
    state: State


class Products(NamedTuple):
    """A cotangent u of an inner gradient, pulled back.

    Attributes:
        meta: u^T d(grad_w objective)/d theta.
        iterate: u^T d(grad_w objective)/d w, the Hessian-vector product.
    """

    meta: Params
    iterate: Params


StepPull: TypeAlias = Callable[
    [ProblemAt, Params, InnerPoint, int, InnerPoint], tuple[Params, InnerPoint]
]
"""(problem, theta, point k, k, cotangents of point k+1) -> those of theta and of point k."""


def vjp(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """`torch.func.vjp` of a function without auxiliary output (its own type is wider)."""
    value, pull = cast(Any, torch.func.vjp(function, *primals))
    return value, pull


def gradient_pull(
    problem_at: ProblemAt, meta: Params, iterate: Params, step: int
) -> Callable[[Params], Products]:
    """How to pull cotangents through an inner gradient, by reverse mode over reverse mode."""

    def gradient(theta: Params, w: Params) -> Params:
        problem = problem_at(theta)
        g: Params = torch.func.grad(lambda v: problem.loss(v, step))(dict(w))
        return g

    _, pull = vjp(gradient, dict(meta), dict(iterate))
    return lambda u: Products(*pull(dict(u)))


def exact_pull(
    problem_at: ProblemAt, meta: Params, at: InnerPoint, step: int, after: InnerPoint
) -> tuple[Params, InnerPoint]:
    """A `StepPull`: second derivatives by reverse mode over reverse mode."""

    def take(theta: Params, w: Params, s: State) -> tuple[Params, State]:
        moved, state = _step(problem_at(theta), InnerPoint(w, s), step)
        return dict(moved), state

    _, pull = vjp(take, dict(meta), dict(at.iterate), at.state)
    of_meta, *before = pull((dict(after.iterate), after.state))
    return of_meta, InnerPoint(*before)


def constant_pull(
    problem_at: ProblemAt, meta: Params, at: InnerPoint, step: int, after: InnerPoint
) -> tuple[Params, InnerPoint]:
    """A `StepPull`: inner gradients taken for constants, first order."""
    gradient = _gradients(problem_at, meta, at.iterate, step).iterate
    of_meta, before, _ = _pull_update(problem_at, meta, at, gradient, step, after)
    return of_meta, before


def difference_pull(relative_step: float) -> StepPull:
    """Second derivatives by differences of gradients, central ones where nothing switches.

    Products with the symmetric Hessian and with the mixed derivative are both derivatives of
    ordinary gradients along u (HF-MAML, Fallah, Mokhtari & Ozdaglar 2020, arXiv:1908.10400,
    section 5):  d/de grad objective(theta, w + e u).

    Differs from the paper: the difference to one side alone is taken where the other is twice as
    large (see `_one_or_both`).

    Args:
        relative_step: length of the step e u, over max(1, |w|).
    """

    def pull(
        problem_at: ProblemAt, meta: Params, at: InnerPoint, step: int, after: InnerPoint
    ) -> tuple[Params, InnerPoint]:
        here = _gradients(problem_at, meta, at.iterate, step)
        of_meta, before, u = _pull_update(problem_at, meta, at, here.iterate, step, after)
        length = relative_step * norm(at.iterate).clamp(min=1.0)
        # A cotangent of 0 has products of 0, whatever the step.
        e = length / norm(u).clamp(min=torch.finfo(length.dtype).tiny)
        ahead, behind = (
            _gradients(problem_at, meta, plus(at.iterate, sign * e, u), step)
            for sign in (1.0, -1.0)
        )
        products = _one_or_both(
            pytree.tree_map(lambda a, h: (a - h) / e, ahead, here),
            pytree.tree_map(lambda h, b: (h - b) / e, here, behind),
        )
        iterate = add(before.iterate, products.iterate)
        return add(of_meta, products.meta), InnerPoint(iterate, before.state)

    return pull


def _one_or_both(ahead: Products, behind: Products) -> Products:
    """The mean of two one-sided differences; if one is twice the other, the smaller one alone.

    A ReLU or max-pool that switches on the way makes the gradient jump, and the jump over the
    length of the way is a difference far too large; seldom does one switch on both sides.
    """
    a, b = (norm(p.iterate) + norm(p.meta) for p in (ahead, behind))
    alone_ahead, alone_behind = 2 * a < b, 2 * b < a
    weight = torch.where(alone_ahead, 1.0, torch.where(alone_behind, 0.0, 0.5)).to(a.dtype)
    mixed: Products = pytree.tree_map(lambda x, y: weight * x + (1 - weight) * y, ahead, behind)
    return mixed


class Walk(NamedTuple):
    """A forward walk without a graph.

    Attributes:
        judged: w_k for the numbers of steps k whose query loss enters the meta-loss.
        kept: points before every `every`-th step, from the first.
        every: distance of the kept ones.
        last: points before each step from the last kept one on.
    """

    judged: dict[int, Params]
    kept: list[InnerPoint]
    every: int
    last: list[InnerPoint]


def num_kept(num_steps: int) -> int:
    """Most points that walk and sweep hold at a time, not counting the start, which is theta's.

    At the last stretch those before it and its own; at the one before there is one fewer of the
    former, but the cotangent differs from that of w_K.
    """
    every = _distance_of_kept(num_steps)
    num_stretches = -(-num_steps // every)
    return max(0, num_stretches - 1 + min(every, num_steps) - 1)


def _distance_of_kept(num_steps: int) -> int:
    """The root of K, rounded up: it makes for the fewest points in all."""
    return max(1, math.isqrt(max(num_steps - 1, 0)) + 1)


def walk(problem: InnerProblem, *, for_sweep: bool = True) -> Walk:
    """Take all steps of the problem, whose tensors need no gradient.

    Args:
        problem: the inner problem.
        for_sweep: whether to keep what a sweep needs; else only the judged iterates.
    """
    every = _distance_of_kept(problem.num_steps)
    at = InnerPoint(problem.start, problem.optimizer.init(problem.start))
    kept: list[InnerPoint] = []
    last: list[InnerPoint] = []
    judged = {0: at.iterate} if 0 in problem.judged else {}
    for step in range(problem.num_steps):
        if for_sweep:
            if step % every == 0:
                kept.append(at)
                last = []
            last.append(at)
        at = _step(problem, at, step)
        if step + 1 in problem.judged:
            judged[step + 1] = at.iterate
    return Walk(judged, kept, every, last)


def sweep(
    problem_at: ProblemAt,
    meta: Params,
    walked: Walk,
    cotangents: Mapping[int, Params],
    step_pull: StepPull,
    last: int | None = None,
    window: int | None = None,
) -> Params:
    """Pull cotangents of iterates back to theta: sum_k v_k^T d w_k / d theta.

    Memory is that of one step, and of the iterates and states that the walk has kept.

    Args:
        problem_at: the inner problem as a function of theta.
        meta: theta.
        walked: the walk at theta; what it kept is forgotten on the way.
        cotangents: k -> v_k, that of w_K among them.
        step_pull: how a step is pulled back.
        last: of the last so many steps of a window only, the others' inner gradients are constants;
            None: of all.
        window: a cotangent is pulled through the steps of its own window, so many steps from the
            first on, no further: not through the iterate and state before; None: one window.
    """
    problem = problem_at(meta)
    window = problem.num_steps if window is None else window
    total = zeros_like(meta)
    no_state: State = pytree.tree_map(torch.zeros_like, problem.optimizer.init(problem.start))
    v = InnerPoint(cotangents[problem.num_steps], no_state)
    points = walked.last
    for first in reversed(range(0, problem.num_steps, walked.every)):
        start = walked.kept.pop()
        if not points:
            points = _again(problem, start, first, walked.every)
        while points:
            step = first + len(points) - 1
            end = min(step - step % window + window, problem.num_steps)
            is_constant = last is not None and step < end - last
            pull = constant_pull if is_constant else step_pull
            of_meta, v = pull(problem_at, meta, points.pop(), step, v)
            if step > 0 and step % window == 0:
                v = pytree.tree_map(torch.zeros_like, v)
            if step in cotangents:
                v = InnerPoint(add(v.iterate, cotangents[step]), v.state)
            total = add(total, of_meta)
    _, pull_start = vjp(lambda theta: dict(problem_at(theta).start), dict(meta))
    (of_start,) = pull_start(dict(v.iterate))
    return add(total, of_start)


def _again(problem: InnerProblem, at: InnerPoint, first: int, count: int) -> list[InnerPoint]:
    """Points before `count` steps, of which `at` is before the first."""
    points = [at]
    for step in range(first, first + count - 1):
        points.append(_step(problem, points[-1], step))
    return points


def _step(problem: InnerProblem, at: InnerPoint, step: int) -> InnerPoint:
    g: Params = torch.func.grad(lambda w: problem.loss(w, step))(dict(at.iterate))
    return InnerPoint(*problem.optimizer.update(at.iterate, g, at.state, step))


def _pull_update(
    problem_at: ProblemAt,
    meta: Params,
    at: InnerPoint,
    gradient: Params,
    step: int,
    after: InnerPoint,
) -> tuple[Params, InnerPoint, Params]:
    """Cotangents of theta, of (w, s) and of the gradient, through the update rule alone."""

    def update(theta: Params, w: Params, g: Params, s: State) -> tuple[Params, State]:
        moved, state = problem_at(theta).optimizer.update(w, g, s, step)
        return dict(moved), state

    _, pull = vjp(update, dict(meta), dict(at.iterate), dict(gradient), at.state)
    of_meta, iterate, of_gradient, state = pull((dict(after.iterate), after.state))
    return of_meta, InnerPoint(iterate, state), of_gradient


def _gradients(problem_at: ProblemAt, meta: Params, iterate: Params, step: int) -> Products:
    """Gradients of the objective with respect to theta and w."""

    def objective(theta: Params, w: Params) -> Tensor:
        return problem_at(theta).loss(w, step)

    return Products(*torch.func.grad(objective, argnums=(0, 1))(dict(meta), dict(iterate)))
