"""What becomes of the mean gradient before the outer step: clipped, rejected, or as it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dmeta.bilevel.flat import to_wire
from dmeta.runtime.messages import Vector
from dmeta.training.outer.options import OuterOptions
from tests.training.outer_loops import (
    LAYOUT,
    OPTIMIZERS,
    apply,
    blocks,
    digest,
    normal,
    outer,
)

CLIPPED = OuterOptions("adam", clip_value=1.0, clip_norm=1.0)


@pytest.mark.parametrize(
    ("options", "bad"),
    [
        *((options, math.nan) for options in OPTIMIZERS),
        *((CLIPPED, bad) for bad in (math.nan, math.inf, -math.inf)),
    ],
    ids=repr,
)
def test_a_gradient_that_is_not_finite_is_dropped_without_a_trace(
    options: OuterOptions, bad: float
) -> None:
    loop, without = outer(options), outer(options)
    poisoned = [blocks(1)[0].copy(), blocks(1)[1]]
    poisoned[0][3] = bad
    for server, gradients in ((loop, poisoned), (without, [])):
        apply(server, 0, blocks(0), num_tasks=1)
        assert not apply(server, 1, gradients, num_tasks=1).applied
        apply(server, 2, blocks(2), num_tasks=1)
    assert digest(loop) == digest(without)
    assert np.isfinite(loop.vector()).all()


def moved(options: OuterOptions, gradient: Vector, num_tasks: int = 1) -> Vector:
    """How far SGD with lr 1 goes: the gradient as it was after clipping."""
    loop = outer(options)
    report = apply(loop, 0, [gradient], num_tasks)
    assert report.gradient_norm == pytest.approx(float(np.linalg.norm(gradient)) / num_tasks)
    result: Vector = normal(0) - loop.vector()
    return result


def sgd(**bounds: Any) -> OuterOptions:
    return OuterOptions("sgd", lr=1.0, **bounds)


def test_clip_value_bounds_every_element_of_the_mean() -> None:
    gradient = np.array([4, -4, 1, -1, 0, 2, 3, -2], np.float32)
    got = moved(sgd(clip_value=1.0), gradient, num_tasks=2)
    np.testing.assert_allclose(got, [1, -1, 0.5, -0.5, 0, 1, 1, -1], atol=1e-6)


def test_clip_norm_shortens_the_mean_to_the_bound_and_no_shorter_gradient() -> None:
    gradient = np.array([3, 4, 0, 0, 0, 0, 0, 0], np.float32)
    np.testing.assert_allclose(moved(sgd(clip_norm=1.0), gradient), gradient / 5, atol=1e-6)
    np.testing.assert_allclose(moved(sgd(clip_norm=1.0), gradient, 10), gradient / 10, atol=1e-6)
    np.testing.assert_allclose(moved(sgd(clip_norm=6.0), gradient), gradient, atol=1e-6)
    zero = np.zeros(LAYOUT.size, np.float32)
    assert not moved(sgd(clip_norm=1.0), zero).any()


def test_clip_norm_comes_after_clip_value() -> None:
    gradient = np.array([100, 1, 0, 0, 0, 0, 0, 0], np.float32)
    got = moved(sgd(clip_value=1.0, clip_norm=1.0), gradient)
    np.testing.assert_allclose(got[:2], [0.5**0.5, 0.5**0.5], atol=1e-6)


def test_clip_norm_over_tensor_shortens_each_tensor_by_itself() -> None:
    gradient = np.array([3, 4, 0, 0, 0, 0, 0.3, 0.4], np.float32)  # w has norm 5, b 0.5
    got = moved(sgd(clip_norm=1.0, clip_norm_over="tensor"), gradient)
    np.testing.assert_allclose(got, [0.6, 0.8, 0, 0, 0, 0, 0.3, 0.4], atol=1e-6)
    whole = moved(sgd(clip_norm=1.0), gradient)
    assert np.abs(whole - got).max() > 0.2
    got = moved(sgd(clip_value=1.0, clip_norm=1.0, clip_norm_over="tensor"), gradient)
    np.testing.assert_allclose(got[:2], [0.5**0.5, 0.5**0.5], atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_clipped_tensors_are_those_of_torch_wherever_chunks_end(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmeta.training.outer.server.CHUNK", chunk)
    gradient = normal(5)
    named = LAYOUT.unflatten(torch.tensor(gradient))
    bound = 0.5
    expected = {n: g * min(1.0, bound / float(g.norm())) for n, g in named.items()}
    got = moved(sgd(clip_norm=bound, clip_norm_over="tensor"), gradient)
    np.testing.assert_allclose(got, LAYOUT.flatten(expected).numpy(), atol=1e-6)


@pytest.mark.parametrize(("bound", "applied"), [(None, True), (10.0, True), (4.9, False)])
def test_a_gradient_that_is_too_large_is_dropped_before_clipping(
    bound: float | None, applied: bool
) -> None:
    loop = outer(OuterOptions("sgd", lr=0.1, clip_norm=1.0, reject_norm=bound))
    before, gradient = digest(loop), np.zeros(8, np.float32)
    gradient[:2] = 6.0, 8.0
    report = apply(loop, 0, [gradient], num_tasks=2)
    assert (report.applied, report.gradient_norm) == (applied, 5.0)
    assert (digest(loop) != before) == applied


def test_gradients_in_bfloat16_are_added_in_float32() -> None:
    halves = [to_wire(torch.tensor(block), "bfloat16") for block in blocks(0)]
    for half in halves:
        half.flags.writeable = False
    loop = outer(OuterOptions("sgd", lr=1.0))
    apply(loop, 0, halves, 4)
    total = sum(torch.tensor(block).bfloat16().float() for block in blocks(0))
    expected = torch.from_numpy(normal(0)) - total / 4
    assert loop.vector().tobytes() == expected.numpy().tobytes()
