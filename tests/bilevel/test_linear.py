"""Linear solvers that only need products, on systems whose solution is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmeta.bilevel.linear import conjugate_gradient, inner_product, neumann_series, norm, plus
from dmeta.bilevel.types import Params

SHAPES = {"a": (2, 3), "b": (4,)}
SIZE = 10


def split(vector: Tensor) -> Params:
    return {"a": vector[:6].view(SHAPES["a"]), "b": vector[6:]}


def join(params: Params) -> Tensor:
    return torch.cat([params["a"].reshape(-1), params["b"]])


def system(seed: int = 0, condition: float = 10.0) -> tuple[Tensor, Tensor]:
    """A symmetric positive definite matrix with eigenvalues from 1 to `condition`, and b."""
    rng = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=rng, dtype=torch.float64))
    values = torch.linspace(1.0, condition, SIZE, dtype=torch.float64)
    b = torch.randn(SIZE, generator=rng, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T, b


def times(matrix: Tensor, calls: list[int]) -> object:
    def product(x: Params) -> Params:
        calls.append(1)
        return split(matrix @ join(x))

    return product


def error(x: Params, matrix: Tensor, b: Tensor) -> float:
    exact = torch.linalg.solve(matrix, b)
    return float((join(x) - exact).norm() / exact.norm())


def test_vectors_are_named_tensors() -> None:
    a, b = split(torch.arange(10.0)), split(torch.ones(10))
    assert inner_product(a, b) == 45
    assert norm(b) == pytest.approx(10**0.5)
    assert torch.equal(join(plus(a, 2.0, b)), torch.arange(10.0) + 2)


def test_conjugate_gradient_is_exact_after_as_many_steps_as_dimensions() -> None:
    matrix, b = system()
    calls: list[int] = []
    x, residual = conjugate_gradient(times(matrix, calls), split(b), SIZE, 0.0)
    assert error(x, matrix, b) < 1e-12
    assert residual < 1e-12
    assert len(calls) == SIZE


def test_conjugate_gradient_gets_nearer_with_every_step_and_says_how_near() -> None:
    matrix, b = system(condition=100.0)
    errors = []
    for iterations in (1, 3, 5, 7):
        x, residual = conjugate_gradient(times(matrix, []), split(b), iterations, 0.0)
        true = (b - matrix @ join(x)).norm() / b.norm()
        assert residual == pytest.approx(float(true), rel=1e-9)
        errors.append(error(x, matrix, b))
    assert errors == sorted(errors, reverse=True)


def test_conjugate_gradient_stops_at_its_tolerance_but_not_its_products() -> None:
    matrix, b = system()
    calls: list[int] = []
    x, residual = conjugate_gradient(times(matrix, calls), split(b), 30, 1e-3)
    _, before = conjugate_gradient(times(matrix, []), split(b), 30, 1e-12)
    assert 1e-6 < residual <= 1e-3
    assert before < residual
    assert len(calls) == 30
    assert join(x).isfinite().all()


def test_conjugate_gradient_of_zero_is_zero() -> None:
    matrix, b = system()
    x, residual = conjugate_gradient(times(matrix, []), split(0 * b), 3, 1e-6)
    assert not join(x).any()
    assert residual == 0


def test_conjugate_gradient_takes_no_step_against_the_curvature() -> None:
    matrix, b = system()
    x, residual = conjugate_gradient(times(-matrix, []), split(b), 3, 0.0)
    assert not join(x).any()
    assert residual == 1


def test_conjugate_gradient_stays_where_it_met_no_curvature() -> None:
    """An indefinite matrix: it stops for good, rather than to start again from the residual."""
    matrix = torch.diag(torch.tensor([4.0, 1.0, -0.5], dtype=torch.float64))

    def product(x: Params) -> Params:
        return {"x": matrix @ x["x"]}

    b = {"x": torch.ones(3, dtype=torch.float64)}
    (first, far), *later = (conjugate_gradient(product, b, k, 0.0) for k in (1, 2, 3, 40))
    torch.testing.assert_close(first["x"], torch.full((3,), 3 / 4.5, dtype=torch.float64))
    for x, residual in later:
        assert torch.equal(x["x"], first["x"])
        assert residual == far


def test_the_neumann_series_converges_below_two_over_the_largest_eigenvalue() -> None:
    matrix, b = system(condition=4.0)
    calls: list[int] = []
    x, residual = neumann_series(times(matrix, calls), split(b), 80, 0.4)
    assert error(x, matrix, b) < 1e-9
    assert residual < 1e-9
    assert len(calls) == 80
    _, diverged = neumann_series(times(matrix, []), split(b), 80, 0.6)
    assert diverged > 1


def test_the_solvers_run_side_by_side() -> None:
    matrices, rights = (torch.stack(part) for part in zip(system(0), system(1), strict=True))

    def solve(matrix: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        x, residual = conjugate_gradient(times(matrix, []), split(b), 6, 1e-2)
        y, _ = neumann_series(times(matrix, []), split(b), 5, 0.1)
        return join(plus(x, 1.0, y)), residual

    together = torch.func.vmap(solve)(matrices, rights)
    for i in range(2):
        apart = solve(matrices[i], rights[i])
        torch.testing.assert_close(together[0][i], apart[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together[1][i], apart[1], rtol=1e-9, atol=1e-12)
