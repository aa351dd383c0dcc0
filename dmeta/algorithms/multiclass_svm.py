"""A multi-class support vector machine in its dual form, differentiable in the Gram matrix.

Crammer & Singer 2001, as in Lee et al. 2019 (arXiv:1904.03758) and their code: with K [S, S] the
inner products of S examples, Y [S, W] their labels one-hot and a > 0 on the diagonal,

    minimise    1/2 tr(alpha' (K + a I) alpha) - sum(alpha * Y)        over alpha [S, W]
    subject to  alpha <= C Y,   sum_w alpha_iw = 0

A primal-dual interior-point method (Mehrotra's predictor and corrector; Nocedal & Wright, Numerical
Optimization, chapter 16) takes a fixed number of steps from a point inside. The Newton matrix is
one block K + a I + diag(lambda_w / slack_w) per class, coupled by the S sums alone, so a step costs
W inverses of [S, S]. Everything is in float64: near the solution lambda / slack spans the range of
float32.

The solution is differentiated implicitly: of the conditions of optimality only K alpha depends on
K, so that a change dK moves alpha by the Newton step whose right-hand side is -dK alpha. First
derivatives are those of the solution; second derivatives are not (the Newton matrix is constant).

Letters: S support examples, W ways.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dmeta.algorithms.linear_learners import add_to_diagonal

DIAGONAL = 1.0
"""a. The authors' code has it, so that the minimum is unique."""

_SMALLEST_GAP = 1e-12  # mean of lambda * slack, in units of `_size`, at which the point stays
_SHARE_OF_THE_WAY = 0.99  # to the boundary


class _Point(NamedTuple):
    """An iterate, strictly inside: all [W, S] but `sums`, the multipliers [S] of the sums."""

    alpha: Tensor
    slack: Tensor
    lambda_: Tensor
    sums: Tensor


def dual_solution(gram: Tensor, members: Tensor, cost: float, num_steps: int) -> Tensor:
    """The minimum [S, W].

    Args:
        gram: K [S, S]; the result is differentiable in it.
        members: Y [S, W]; a class may be without examples.
        cost: C.
        num_steps: of the interior-point method.
    """
    labels = members.T.detach().double()
    quadratic = add_to_diagonal(gram.detach().double(), DIAGONAL)
    size = _size(quadratic, cost)
    point = _start(quadratic, labels, cost)
    for _ in range(num_steps):
        point = _next(point, quadratic, labels, size)
    newton = _NewtonMatrix.at(point, quadratic)
    kernel = gram.double()
    change = newton.solve(-(point.alpha @ (kernel - kernel.detach()).T))
    return (point.alpha + change[0]).T.to(gram.dtype)


def _size(quadratic: Tensor, cost: float) -> Tensor:
    """How large alpha is, roughly: C for small examples, else as their squared lengths: []."""
    return cost / (2 + cost * quadratic.diagonal().mean())


def _start(quadratic: Tensor, labels: Tensor, cost: float) -> _Point:
    """Inside, with equal products of lambda and slack."""
    size = _size(quadratic, cost) / len(labels)
    alpha = size * (len(labels) * labels - 1)
    slack = cost * labels - alpha
    return _Point(alpha, slack, size / slack, torch.zeros_like(alpha[0]))


class _NewtonMatrix(NamedTuple):
    """The conditions of optimality, linearised: inverses [W, S, S] of the blocks, and of their sum.

    Of dalpha and dsums: block_w dalpha_w + dsums = right_w,  sum_w dalpha_w = 0.
    """

    inverses: Tensor
    coupling: Tensor

    @classmethod
    def at(cls, point: _Point, quadratic: Tensor) -> _NewtonMatrix:
        """With dlambda = (lambda / slack) dalpha + ... put in."""
        blocks = quadratic + torch.diag_embed(point.lambda_ / point.slack)
        inverses = torch.linalg.inv_ex(blocks)[0]
        return cls(inverses, torch.linalg.inv_ex(inverses.sum(0))[0])

    def solve(self, right: Tensor) -> tuple[Tensor, Tensor]:
        """[W, S] -> dalpha [W, S], dsums [S]."""
        alone = self._applied(right)
        sums = self.coupling @ alone.sum(0)
        return alone - self._applied(sums.expand_as(right)), sums

    def _applied(self, rows: Tensor) -> Tensor:
        return (self.inverses @ rows[:, :, None])[:, :, 0]


def _next(point: _Point, quadratic: Tensor, labels: Tensor, size: Tensor) -> _Point:
    """A predictor-corrector step; none where the solution is reached."""
    newton = _NewtonMatrix.at(point, quadratic)
    residual = point.alpha @ quadratic - labels + point.lambda_ + point.sums
    products = point.lambda_ * point.slack
    gap = products.mean()

    def direction(complementarity: Tensor) -> _Point:
        alpha, sums = newton.solve(complementarity / point.slack - residual)
        lambda_ = (point.lambda_ * alpha - complementarity) / point.slack
        return _Point(alpha, -alpha, lambda_, sums)

    affine = direction(products)
    reached = _moved(point, affine, _longest(point, affine))
    centring = ((reached.lambda_ * reached.slack).mean() / gap) ** 3
    second_order = affine.lambda_ * affine.slack
    step = direction(products + second_order - centring * gap)
    moved = _moved(point, step, _SHARE_OF_THE_WAY * _longest(point, step))
    unsolved = gap > _SMALLEST_GAP * size
    return _Point(*(torch.where(unsolved, a, b) for a, b in zip(moved, point, strict=True)))


def _longest(point: _Point, step: _Point) -> Tensor:
    """The largest share of a step, up to 1, by which slack and lambda stay >= 0: []."""
    values = torch.stack([point.slack, point.lambda_])
    changes = torch.stack([step.slack, step.lambda_])
    shares = torch.where(changes < 0, values / -changes, torch.ones_like(values))
    return shares.amin().clamp(max=1)


def _moved(point: _Point, step: _Point, share: Tensor) -> _Point:
    return _Point(*(a + share * b for a, b in zip(point, step, strict=True)))
