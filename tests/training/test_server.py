"""The outer loop: plain torch.optim on one vector, each step once, and saved to the bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dmeta.bilevel.flat import Layout, sha256_of, to_wire
from dmeta.runs.checkpoint import meta_params_of
from dmeta.runtime.protocol import ApplyReport, Gradient, Vector
from dmeta.training.config import OuterOptions
from dmeta.training.optimizers import CLASSES, arguments_of
from dmeta.training.server import OuterLoop, OuterLoopFactory, learning_rate

CONFIGS = Path(__file__).parents[2] / "configs" / "outer"
LAYOUT = Layout(("w", "b"), ((2, 3), (2,)))
NUM_STEPS = 10
OPTIMIZERS = [
    OuterOptions("adam", lr=0.1),
    OuterOptions("adam", lr=0.1, schedule="cosine", options={"betas": [0.0, 0.9], "eps": 1e-4}),
    OuterOptions("sgd", lr=0.1),
    OuterOptions("sgd", lr=0.1, schedule="linear", final_lr=0.01, options={"momentum": 0.9}),
    OuterOptions("adamw", lr=0.1, warmup_steps=3, options={"weight_decay": 0.1, "amsgrad": True}),
    *(OuterOptions(name, lr=0.1) for name in CLASSES if name not in ("adam", "adamw", "sgd")),
]


def normal(seed: int) -> Vector:
    return np.random.default_rng(seed).standard_normal(LAYOUT.size).astype(np.float32)


def outer(options: OuterOptions | None = None, layout: Layout = LAYOUT) -> OuterLoop:
    return OuterLoopFactory(
        normal(0)[: layout.size], layout, options or OuterOptions("sgd", lr=1.0), NUM_STEPS
    ).build()


def apply(loop: OuterLoop, step: int, gradients: Sequence[Gradient], num_tasks: int) -> ApplyReport:
    """A step of the one server of the whole vector."""
    return loop.commit(step, [loop.gather(gradients, num_tasks)])


def digest(loop: OuterLoop) -> str:
    return sha256_of(LAYOUT, loop.vector())


def blocks(step: int) -> list[Vector]:
    """Two blocks' summed gradients, read-only as they come out of shared memory."""
    found = [normal(100 + 2 * step), normal(101 + 2 * step)]
    for gradient in found:
        gradient.flags.writeable = False
    return found


@pytest.mark.parametrize("options", OPTIMIZERS, ids=repr)
def test_it_is_torch_optim_on_the_named_tensors(options: OuterOptions) -> None:
    loop = outer(options)
    named = {n: p.clone() for n, p in LAYOUT.unflatten(torch.tensor(normal(0))).items()}
    reference = CLASSES[options.name](
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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "options", [*OPTIMIZERS, OuterOptions("adam", clip_value=1.0, clip_norm=1.0)], ids=repr
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


def test_the_rate_rises_linearly_and_then_follows_its_schedule() -> None:
    options = OuterOptions(lr=0.4, final_lr=0.1, schedule="linear", warmup_steps=4)
    rates = [learning_rate(options, step, 10) for step in range(10)]
    np.testing.assert_allclose(rates[:4], [0.1, 0.2, 0.3, 0.4])
    after = dataclasses.replace(options, warmup_steps=0)
    assert rates[4:] == [learning_rate(after, step, 6) for step in range(6)]


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


@pytest.mark.parametrize("name", CLASSES)
def test_the_preset_of_an_optimiser_has_its_own_arguments(name: str) -> None:
    preset = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert preset.pop("name") == name
    assert preset.pop("lr") > 0
    assert preset == arguments_of(name)


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
    monkeypatch.setattr("dmeta.training.server.CHUNK", chunk)
    gradient = normal(5)
    named = LAYOUT.unflatten(torch.tensor(gradient))
    bound = 0.5
    expected = {n: g * min(1.0, bound / float(g.norm())) for n, g in named.items()}
    got = moved(sgd(clip_norm=bound, clip_norm_over="tensor"), gradient)
    np.testing.assert_allclose(got, LAYOUT.flatten(expected).numpy(), atol=1e-6)


def test_a_schedule_of_epochs_keeps_the_rate_of_their_first_step() -> None:
    options = OuterOptions(lr=1e-3, final_lr=1e-5, schedule="cosine", schedule_every=500)
    rates = [learning_rate(options, step, 50_000) for step in range(0, 50_000, 100)]
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=1e-3)
    epochs = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=100, eta_min=1e-5)
    expected = []
    for _ in range(100):
        expected += 5 * epochs.get_last_lr()
        adam.step()
        epochs.step()
    assert rates == pytest.approx(expected)
    each = dataclasses.replace(options, schedule_every=1)
    assert learning_rate(each, 499, 50_000) < learning_rate(options, 499, 50_000) == 1e-3


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ("linear", [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]),
        ("cosine", [0.5, 0.1 + 0.2 * (1 + 0.5**0.5), 0.3, 0.1 + 0.2 * (1 - 0.5**0.5), 0.1, 0.1]),
    ],
)
def test_schedules_go_from_lr_to_final_lr_and_stay(schedule: Any, rates: list[float]) -> None:
    options = OuterOptions(lr=0.5, final_lr=0.1, schedule=schedule)
    got = [learning_rate(options, step, 8) for step in (0, 2, 4, 6, 8, 12)]
    assert got == pytest.approx(rates)


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("options", OPTIMIZERS, ids=repr)
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


def factory_of(layout: Layout = LAYOUT, options: OuterOptions | None = None) -> OuterLoopFactory:
    options = options or OuterOptions("adam")
    return OuterLoopFactory(normal(0)[: layout.size], layout, options, NUM_STEPS)


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


@pytest.mark.parametrize("num_parts", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        *OPTIMIZERS,
        OuterOptions("sgd", lr=0.1, clip_norm=0.3),
        OuterOptions("adam", lr=0.1, clip_value=0.2, clip_norm=0.3),
        OuterOptions("sgd", lr=0.1, clip_value=0.4, clip_norm=0.3, clip_norm_over="tensor"),
        OuterOptions("adam", lr=0.1, reject_norm=1.2),
    ],
    ids=repr,
)
def test_servers_of_parts_do_together_what_one_does(
    options: OuterOptions, num_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmeta.training.server.CHUNK", 3)  # 3, 3 and 2 of the 8 elements
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


def test_gradients_in_bfloat16_are_added_in_float32() -> None:
    halves = [to_wire(torch.tensor(block), "bfloat16") for block in blocks(0)]
    for half in halves:
        half.flags.writeable = False
    loop = outer(OuterOptions("sgd", lr=1.0))
    apply(loop, 0, halves, 4)
    total = sum(torch.tensor(block).bfloat16().float() for block in blocks(0))
    expected = torch.from_numpy(normal(0)) - total / 4
    assert loop.vector().tobytes() == expected.numpy().tobytes()
