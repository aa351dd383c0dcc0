"""Meta-parameters that follow an average, on the server."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dmeta.bilevel.flat import Layout
from dmeta.training.outer.options import OuterOptions
from dmeta.training.outer.server import CHUNK, OuterLoopFactory
from dmeta.training.setup import prepare
from tests.conftest import tiny_config
from tests.training.outer_loops import LAYOUT, NUM_STEPS, OPTIMIZERS, apply, blocks, normal


@pytest.mark.parametrize("options", OPTIMIZERS, ids=lambda o: o.name)
def test_they_follow_the_average_and_the_others_do_not_notice(options: OuterOptions) -> None:
    options = dataclasses.replace(options, clip_norm=0.5)
    followed = OuterLoopFactory(normal(0), LAYOUT, options, NUM_STEPS, averages={"b": 0.25}).build()
    without = OuterLoopFactory(normal(0), LAYOUT, options, NUM_STEPS).build()
    value = normal(0)[6:].astype(np.float64)
    for step in range(3):
        gradients = blocks(step)
        value -= 0.25 * (gradients[0] + gradients[1])[6:].astype(np.float64) / 4
        zeroed = [np.concatenate([g[:6], np.zeros(2, np.float32)]) for g in gradients]
        one, two = apply(followed, step, gradients, 4), apply(without, step, zeroed, 4)
        assert one.gradient_norm == two.gradient_norm
        np.testing.assert_array_equal(followed.vector()[:6], without.vector()[:6])
        np.testing.assert_allclose(followed.vector()[6:], value, rtol=1e-6)


def test_a_constant_stays_where_weight_decay_moves_all_others(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, task="glyphs", algorithm="cnaps", algorithm__learn_backbone=False,
        model="conv4_strided", model__filters=4, outer="adamw", outer__lr=0.1,
        outer__weight_decay=0.5, task__ways=3, task__queries=2, gradient="exact",
    )  # fmt: skip
    run = prepare(config)
    loop = run.outer.build()
    apply(loop, 0, [np.zeros_like(loop.vector())], 1)
    before, after = (run.work.layout.unflatten(torch.from_numpy(v))
                     for v in (run.outer.initial, loop.vector()))  # fmt: skip
    for name, p in after.items():
        stays = name in run.algorithm.network.names
        assert torch.equal(p, before[name]) == (stays or not before[name].any()), name


def test_what_is_not_finite_rejects_the_step() -> None:
    loop = OuterLoopFactory(
        normal(0), LAYOUT, OuterOptions("sgd"), NUM_STEPS, averages={"b": 0.25}
    ).build()
    gradient = normal(1)
    gradient[7] = np.inf
    assert not apply(loop, 0, [gradient], 1).applied
    np.testing.assert_array_equal(loop.vector(), normal(0))


def test_a_divided_vector_has_the_same_bits() -> None:
    layout = Layout(("w", "m", "v"), ((CHUNK - 5,), (CHUNK,), (40,)))
    rng = np.random.default_rng(0)
    start, gradient = rng.standard_normal((2, layout.size)).astype(np.float32)
    whole = OuterLoopFactory(
        start, layout, OuterOptions("adam"), NUM_STEPS, averages={"m": 0.1, "v": 1.0}
    )
    one, parts = whole.build(), [part.build() for part in whole.parts(3)]
    assert len(parts) == 3
    apply(one, 0, [gradient], 1)
    cuts = np.cumsum([len(part.vector()) for part in parts])[:-1]
    sums = [p.gather([g], 1) for p, g in zip(parts, np.split(gradient, cuts), strict=True)]
    for part in parts:
        part.commit(0, sums)
    np.testing.assert_array_equal(one.vector(), np.concatenate([p.vector() for p in parts]))
    np.testing.assert_array_equal(one.vector()[-40:], (start - gradient)[-40:])
