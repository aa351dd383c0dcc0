"""Named tensors as vectors, and solvers of linear systems that only need products.

Everything runs under `torch.func.vmap`: the number of products never depends on a value.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dmeta.bilevel.types import Params


def inner_product(a: Params, b: Params) -> Tensor:
    """Sum over all tensors of the elementwise products []."""
    return torch.stack([(x * b[name]).sum() for name, x in a.items()]).sum()


def norm(a: Params) -> Tensor:
    """2-norm of all tensors together []."""
    return inner_product(a, a).sqrt()


def zeros_like(a: Params) -> Params:
    """The zero vector."""
    return {name: torch.zeros_like(p) for name, p in a.items()}


def add(a: Params, b: Params) -> Params:
    """A + b."""
    return {name: x + b[name] for name, x in a.items()}


def plus(a: Params, factor: Tensor | float, b: Params) -> Params:
    """A + factor * b."""
    return {name: x + factor * b[name] for name, x in a.items()}


def scaled(factor: Tensor | float, a: Params) -> Params:
    """Factor * a."""
    return {name: factor * x for name, x in a.items()}


def conjugate_gradient(
    product: Callable[[Params], Params], right: Params, iterations: int, tolerance: float
) -> tuple[Params, Tensor]:
    """Solve A x = b for a symmetric positive definite A, from x = 0 (Hestenes & Stiefel 1952).

    From a residual below the tolerance, or along a direction of no positive curvature, no further
    step is taken (the products are still computed).

    Args:
        product: x -> A x.
        right: b.
        iterations: most steps.
        tolerance: of the residual's norm over that of b.

    Returns: x, and |b - A x| / |b| as the recursion has it [].
    """
    x, residual = zeros_like(right), right
    direction, square = residual, inner_product(residual, residual)
    bound = tolerance**2 * square
    tiny = torch.finfo(square.dtype).tiny
    start = square.clamp(min=tiny)
    goes_on = torch.ones_like(square, dtype=torch.bool)
    for _ in range(iterations):
        image = product(direction)
        curvature = inner_product(direction, image)
        goes_on = goes_on & (square > bound) & (curvature > 0)
        length = torch.where(goes_on, square / curvature.clamp(min=tiny), 0.0)
        x = plus(x, length, direction)
        residual = plus(residual, -length, image)
        after = inner_product(residual, residual)
        direction = plus(
            residual, torch.where(goes_on, after / square.clamp(min=tiny), 0.0), direction
        )
        square = after
    return x, (square / start).sqrt()


def neumann_series(
    product: Callable[[Params], Params], right: Params, terms: int, scale: float
) -> tuple[Params, Tensor]:
    """Solve A x = b by x = a sum_{j < terms} (I - a A)^j b, which needs |I - a A| < 1.

    Lorraine, Vicol & Duvenaud 2020 (arXiv:1911.02590), algorithm 3.

    Args:
        product: x -> A x.
        right: b.
        terms: of the series, each but the first one product.
        scale: a, less than 2 over the largest eigenvalue of A.

    Returns: x, and |b - A x| / |b| [].
    """
    term = total = right
    for _ in range(terms - 1):
        term = plus(term, -scale, product(term))
        total = add(total, term)
    x = scaled(scale, total)
    tiny = torch.finfo(next(iter(right.values())).dtype).tiny
    return x, norm(plus(right, -1.0, product(x))) / norm(right).clamp(min=tiny)
