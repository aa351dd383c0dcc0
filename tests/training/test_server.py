"""The outer loop: plain torch.optim on one vector, each step once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dmeta.training.outer.optimizers import class_of
from dmeta.training.outer.options import OuterOptions
from dmeta.training.outer.server import OuterLoopFactory, learning_rate
from tests.training.outer_loops import (
    LAYOUT,
    NUM_STEPS,
    OPTIMIZERS,
    apply,
    blocks,
    digest,
    normal,
    outer,
)


@pytest.mark.parametrize("options", OPTIMIZERS, ids=repr)
def test_it_is_torch_optim_on_the_named_tensors(options: OuterOptions) -> None:
    loop = outer(options)
    named = {n: p.clone() for n, p in LAYOUT.unflatten(torch.tensor(normal(0))).items()}
    reference = class_of(options.name)(
        named.values(),
        lr=options.lr,  # type: ignore[call-arg]
        **options.options,
    )
    for step in range(NUM_STEPS):
        lr = learning_rate(options, step, NUM_STEPS)
        mean = LAYOUT.unflatten(torch.tensor(sum(blocks(step))) / 4)
        for name, p in named.items():
            p.grad = mean[name]
        reference.param_groups[0]["lr"] = lr
        reference.step()
        report = apply(loop, step, blocks(step), num_tasks=4)
        assert report.applied
        assert report.lr == lr
        assert report.step == step
        assert report.gradient_norm == pytest.approx(float(LAYOUT.flatten(mean).norm()), rel=1e-6)
    after = torch.tensor(loop.vector())
    torch.testing.assert_close(after, LAYOUT.flatten(named), rtol=1e-6, atol=1e-7)
    assert (after - torch.tensor(normal(0))).norm() > 0.001


def test_blocks_are_added_in_their_order() -> None:
    big, small = np.float32(2.0**24), np.float32(1.0)
    orders = []
    for parts in ([big, small, -big], [big, -big, small]):
        loop = outer()
        apply(loop, 0, [np.full(LAYOUT.size, part, np.float32) for part in parts], num_tasks=1)
        orders.append(loop.vector())
    assert np.array_equal(orders[0], normal(0))  # 2^24 + 1 is 2^24 in float32
    assert np.array_equal(orders[1], normal(0) - small)


def test_the_gradients_and_the_initial_vector_are_only_read() -> None:
    initial, given = normal(0), [normal(1), normal(2)]
    loop = OuterLoopFactory(initial, LAYOUT, OuterOptions(clip_norm=0.1), NUM_STEPS).build()
    apply(loop, 0, given, num_tasks=2)
    assert np.array_equal(initial, normal(0))
    assert np.array_equal(given[0], normal(1))
    assert np.array_equal(given[1], normal(2))


def test_the_vector_it_gives_is_a_copy() -> None:
    loop = outer()
    held = loop.vector()
    apply(loop, 0, blocks(0), num_tasks=1)
    assert np.array_equal(held, normal(0))
    loop.vector()[:] = 7
    assert not (loop.vector() == 7).any()


@pytest.mark.parametrize("options", OPTIMIZERS, ids=repr)
def test_a_step_applied_twice_is_applied_once(options: OuterOptions) -> None:
    loop, once = outer(options), outer(options)
    for step in range(3):
        report = apply(loop, step, blocks(step), num_tasks=2)
        assert apply(loop, step, blocks(step + 50), num_tasks=2) == report
        apply(once, step, blocks(step), num_tasks=2)
    assert digest(loop) == digest(once)


@pytest.mark.parametrize("step", [0, 3])
def test_a_step_out_of_turn_is_our_own_mistake(step: int) -> None:
    loop = outer()
    apply(loop, 0, blocks(0), num_tasks=1)
    apply(loop, 1, blocks(1), num_tasks=1)
    with pytest.raises(AssertionError, match=f"step {step} at version 2"):
        apply(loop, step, blocks(step), num_tasks=1)


@pytest.mark.parametrize("options", OPTIMIZERS, ids=repr)
def test_a_rejected_step_counts_and_moves_nothing(options: OuterOptions, tmp_path: Path) -> None:
    loop = outer(options)
    apply(loop, 0, blocks(0), num_tasks=1)
    before = digest(loop)
    report = apply(loop, 1, [], num_tasks=1)
    assert not report.applied
    assert math.isnan(report.gradient_norm)
    assert report.lr == learning_rate(options, 1, NUM_STEPS)
    assert digest(loop) == before
    assert apply(loop, 1, blocks(1), num_tasks=1) is report  # and it counts once, too
    assert digest(loop) == before
    assert loop.state().step == 2
    assert apply(loop, 2, blocks(2), num_tasks=1).applied
    assert digest(loop) != before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"beta": 0.9},
            r"unknown key 'outer.beta' \(did you mean 'betas'\?\); adam has",
        ),
        ({"betas": [2.0, 0.9]}, r"torch.optim.Adam takes, got .*Invalid beta"),
        ({"eps": "small"}, r"torch.optim.Adam takes, got "),
    ],
)
def test_arguments_that_the_optimiser_does_not_take_are_refused(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        outer(OuterOptions("adam", options=options))
