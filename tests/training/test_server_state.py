"""The outer loop's state: saved, restored and divided among servers, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmeta.bilevel.flat import Layout, sha256_of
from dmeta.runs.checkpoint import meta_params_of
from dmeta.training.outer.options import OuterOptions
from dmeta.training.outer.server import OuterLoopFactory
from tests.training.outer_loops import (
    LAYOUT,
    NUM_STEPS,
    OPTIMIZERS,
    apply,
    blocks,
    digest,
    factory_of,
    normal,
    outer,
)


@pytest.mark.parametrize(
    ("options", "at"),
    [*((options, 4) for options in OPTIMIZERS), (OPTIMIZERS[1], 0), (OPTIMIZERS[1], 1)],
    ids=repr,
)
def test_saved_restored_and_continued_is_not_interrupted(
    options: OuterOptions, at: int, tmp_path: Path
) -> None:
    whole = outer(options)
    for step in range(7):
        apply(whole, step, blocks(step), num_tasks=2)

    first = outer(options)
    for step in range(at):
        apply(first, step, blocks(step), num_tasks=2)
    saved = first.state()
    before = digest(first)
    second = outer(options)
    apply(second, 0, blocks(77), num_tasks=1)  # what it was before is forgotten
    second.load(saved)
    assert digest(second) == before
    for step in range(at, 7):
        apply(second, step, blocks(step), num_tasks=2)
    assert digest(second) == digest(whole)
    assert np.array_equal(second.vector(), whole.vector())


def test_a_state_is_a_copy_and_taking_it_does_not_disturb_what_follows() -> None:
    saved, plain = outer(OPTIMIZERS[0]), outer(OPTIMIZERS[0])
    for step in range(4):
        state = saved.state()
        before = {name: array.copy() for name, array in state.arrays.items()}
        apply(saved, step, blocks(step), num_tasks=1)
        apply(plain, step, blocks(step), num_tasks=1)
        assert all(np.array_equal(array, before[name]) for name, array in state.arrays.items())
    assert digest(saved) == digest(plain)


def test_a_state_that_nobody_may_write_to_is_copied() -> None:
    first, second = outer(OPTIMIZERS[0]), outer(OPTIMIZERS[0])
    apply(first, 0, blocks(0), num_tasks=1)
    state = first.state()
    for array in state.arrays.values():  # as it comes out of a shared memory
        array.flags.writeable = False
    second.load(state)
    for loop in (first, second):
        apply(loop, 1, blocks(1), num_tasks=1)
    assert digest(first) == digest(second)


def test_a_state_holds_the_parameters_by_name_and_the_optimiser() -> None:
    factory = OuterLoopFactory(normal(0), LAYOUT, OuterOptions("adam"), NUM_STEPS)
    loop = factory.build()
    apply(loop, 0, blocks(0), num_tasks=1)
    state = factory.joined([loop.state()])
    assert state.step == 1
    params = meta_params_of(state)
    assert {name: tuple(p.shape) for name, p in params.items()} == {"w": (2, 3), "b": (2,)}
    assert np.array_equal(LAYOUT.flatten(params).numpy(), loop.vector())
    others = set(state.arrays) - {f"meta_params/{name}" for name in params}
    assert others == {"optimizer/step", "optimizer/exp_avg", "optimizer/exp_avg_sq"}


def test_the_digest_is_of_the_layout_and_the_vector() -> None:
    vector, other = normal(0), factory_of(Layout(("v", "b"), LAYOUT.shapes))
    assert factory_of().digest([vector]) == sha256_of(LAYOUT, vector) != other.digest([vector])
    assert factory_of().digest([vector[:3], vector[3:]]) == factory_of().digest([vector])


OTHER_LAYOUTS = [
    Layout(("w",), ((2, 3),)),
    Layout(("w", "b"), ((3, 2), (2,))),
    Layout(("w", "c"), ((2, 3), (2,))),
]


@pytest.mark.parametrize("layout", OTHER_LAYOUTS)
def test_the_state_of_another_model_is_refused(layout: Layout) -> None:
    factory = factory_of()
    saved = factory.joined([factory.build().state()])
    with pytest.raises(ValueError, match="must have the layout"):
        factory_of(layout).divided(saved, 1)


@pytest.mark.parametrize(
    ("options", "num_parts"),
    [
        *((options, 2) for options in OPTIMIZERS),
        (OPTIMIZERS[1], 3),
        (OuterOptions("sgd", lr=0.1, clip_norm=0.3), 3),
        (OuterOptions("adam", lr=0.1, clip_value=0.2, clip_norm=0.3), 2),
        (OuterOptions("sgd", lr=0.1, clip_value=0.4, clip_norm=0.3, clip_norm_over="tensor"), 3),
        (OuterOptions("adam", lr=0.1, reject_norm=1.2), 3),
    ],
    ids=repr,
)
def test_servers_of_parts_do_together_what_one_does(
    options: OuterOptions, num_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmeta.training.outer.server.CHUNK", 3)  # 3, 3 and 2 of the 8 elements
    factory = factory_of(options=options)
    whole, parts = factory.build(), [part.build() for part in factory.parts(num_parts)]
    cuts = np.cumsum([len(part.vector()) for part in parts])[:-1]
    assert len(parts) == num_parts
    for step in range(NUM_STEPS):
        gradients = [] if step == 4 else blocks(step)
        expected = apply(whole, step, gradients, 3)
        pieces = [np.split(gradient, cuts) for gradient in gradients]
        of_parts = zip(*pieces, strict=True) if pieces else [()] * num_parts
        sums = [part.gather(own, 3) for part, own in zip(parts, of_parts, strict=True)]
        for part in parts:
            report = part.commit(step, sums)
            assert repr(report.gradient_norm) == repr(expected.gradient_norm)
            assert (report.applied, report.lr) == (expected.applied, expected.lr)
        if step == 5:  # saved, and restored among others
            saved = factory.joined([part.state() for part in parts])
            other = 5 - num_parts
            parts = [part.build() for part in factory.parts(other)]
            for part, state in zip(parts, factory.divided(saved, other), strict=True):
                part.load(state)
            num_parts, cuts = other, np.cumsum([len(part.vector()) for part in parts])[:-1]
    assert factory.digest([part.vector() for part in parts]) == digest(whole)
    joined, expected_state = factory.joined([p.state() for p in parts]), whole.state()
    [again] = factory.divided(joined, 1)
    assert again.step == expected_state.step
    for name, array in expected_state.arrays.items():
        assert np.array_equal(again.arrays[name], array)


def test_a_short_vector_is_not_divided() -> None:
    assert len(factory_of().parts(4)) == 1
