"""Gradients of some steps ago: bounded, counted, and every block once."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmeta.runtime import RuntimeOptions
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.messages import BlockReport
from dmeta.runtime.ray.stale_gradients import Stream
from dmeta.runtime.ray.worker_pool import Batch, Computed
from tests.runtime import toy
from tests.runtime.toy_runs import NUM_STEPS, start, train, train_blocks


class Workers:
    """Answer for as many blocks as `script` says at a time, the one at `pick` first."""

    def __init__(self, num_up, script=()):
        self.num_up, self.script = num_up, iter(script)
        self.held, self.vectors, self.next = {}, {}, 0
        self.most = 0

    def want(self, blocks, vector):
        numbers = range(self.next, self.next + len(blocks))
        self.next = numbers.stop
        self.held |= dict(zip(numbers, blocks, strict=True))
        self.vectors |= dict.fromkeys(numbers, vector)
        self.most = max(self.most, len(self.held))
        return Batch(blocks, numbers)

    def compute_any(self, numbers):
        assert set(numbers) == set(self.held)
        assert self.held, "waited for nothing"
        pick, count = next(self.script, (0, 1))
        found = sorted(self.held)
        found = (found[pick % len(found) :] + found[: pick % len(found)])[:count]
        return {
            number: Computed(BlockReport(self.held.pop(number), {}, True, 0.0), number, "")
            for number in found
        }


def options(**changes):
    return RuntimeOptions("ray", mode="async", **changes)


def run(stream, num_steps, num_blocks):
    """What each step took; the vector of a step is its number."""
    taken = []
    for step in range(num_steps):
        stream.supply(step, blocks_of("train", step, num_blocks, 1))
        if step + 1 < num_steps:
            stream.supply(step + 1, blocks_of("train", step + 1, num_blocks, 1))
        taken.append(stream.take(step, num_blocks, step))
    return taken


@settings(max_examples=200)
@given(
    num_up=st.integers(0, 6),
    num_blocks=st.integers(1, 5),
    max_staleness=st.integers(0, 4),
    max_waiting=st.none() | st.integers(0, 6),
    when_full=st.sampled_from(["block", "drop"]),
    script=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), max_size=80),
)
def test_every_block_counts_once_and_none_is_too_old(
    num_up, num_blocks, max_staleness, max_waiting, when_full, script
):
    workers = Workers(num_up, script)
    stream = Stream(
        workers, options(max_staleness=max_staleness, max_waiting=max_waiting, when_full=when_full)
    )
    taken = run(stream, 6, num_blocks)
    counted = Counter(each.report.block for one in taken for each in one.computed)
    asked = [block for step in range(6) for block in blocks_of("train", step, num_blocks, 1)]
    assert counted == Counter(asked)
    for step, one in enumerate(taken):
        assert len(one.computed) == len(one.staleness) == num_blocks
        assert all(0 <= age <= max_staleness for age in one.staleness)
        for each, age in zip(one.computed, one.staleness, strict=True):
            assert workers.vectors[each.gradient] == step - age
        places = [(b.step, b.index) for b in (each.report.block for each in one.computed)]
        assert places == sorted(places)
    assert workers.most <= 2 * max(1, num_up)


def test_without_staleness_a_step_is_made_of_its_own_blocks():
    taken = run(Stream(Workers(3), options(max_staleness=0)), 3, 4)
    for step, one in enumerate(taken):
        assert [each.report.block for each in one.computed] == blocks_of("train", step, 4, 1)
        assert one[1:] == ([0] * 4, 0, 0)


def test_a_block_that_comes_too_late_is_counted_and_computed_again():
    late = [(1, 1)] * 8  # block 0 is passed over
    workers = Workers(2, [*late, (0, 1)])
    taken = run(Stream(workers, options(max_staleness=1)), 8, 2)
    assert sum(one.num_too_stale for one in taken) == 1
    [again] = [
        one.staleness[i]
        for one in taken
        for i, each in enumerate(one.computed)
        if each.report.block == blocks_of("train", 0, 2, 1)[0]
    ]
    assert again <= 1


def test_what_there_is_no_room_for_is_dropped_or_waits():
    everything, dropped, most = [(0, 100)] * 50, {}, {}
    for when_full in ("block", "drop"):
        workers = Workers(20, everything)
        stream = Stream(workers, options(when_full=when_full, max_staleness=9, max_waiting=1))
        dropped[when_full] = sum(one.num_dropped for one in run(stream, 10, 3))
        most[when_full] = workers.most
    assert dropped["block"] == 0 < dropped["drop"]
    assert most["block"] == 4 < most["drop"]


def test_after_a_restart_what_was_asked_is_asked_again():
    workers = Workers(4)
    stream = Stream(workers, options())
    stream.supply(0, blocks_of("train", 0, 2, 1))
    stream.supply(1, blocks_of("train", 1, 2, 1))
    stream.take(0, 2, 0)
    workers.held.clear()  # forgotten
    assert stream.restart() == 0
    taken = stream.take(1, 2, 1)
    assert [each.report.block for each in taken.computed] == blocks_of("train", 1, 2, 1)
    assert taken.staleness == [0, 0]


@pytest.fixture(scope="module")
def asynchronous(cluster, tmp_path_factory):
    """An asynchronous runtime of two workers, its first state, and a folder for faults."""
    folder = tmp_path_factory.mktemp("asynchronous")
    factories = toy.ToyWorkerFactory(folder=str(folder)), toy.ToyServerFactory(folder=str(folder))
    with start(*factories, cpus_per_worker=0.25, mode="async", max_staleness=2) as runtime:
        yield runtime, runtime.state()(), folder


@pytest.mark.slow
def test_a_run_takes_every_task_once_and_can_be_evaluated_in_between(asynchronous):
    runtime, first, _ = asynchronous
    runtime.load(first)
    reports = []
    for step in range(8):
        reports.append(runtime.step(step, train_blocks(step), train_blocks(step + 1)))
        if step % 3 == 0:
            assert len(runtime.evaluate(blocks_of("val", 0, 4, 2))) == 2
    for report in reports:
        assert report.applied.applied
        assert len(report.blocks) == len(report.staleness) == 4
        assert max(report.staleness) <= 2
    blocks = [block.block for report in reports for block in report.blocks]
    assert len(set(blocks)) == len(blocks) == 8 * 4
    assert runtime.state()().step == 8


@pytest.mark.slow
def test_it_goes_on_after_a_worker_the_server_and_the_work_have_failed(asynchronous):
    runtime, first, folder = asynchronous
    runtime.load(first)
    toy.arm(folder, "1-1", "kill")
    toy.arm(folder, "server-2", "kill_before")
    train(runtime, steps=4)
    assert not list(folder.iterdir())
    toy.arm(folder, "val-1", "raise")
    with pytest.raises(ZeroDivisionError):
        runtime.evaluate(blocks_of("val", 0, 4, 2))
    toy.arm(folder, "5-0", "raise")
    with pytest.raises(ZeroDivisionError):
        train(runtime, first=4, steps=7)
    step = runtime.state()().step
    report = runtime.step(step, train_blocks(step))
    assert report.applied.applied
    assert runtime.state()().step == step + 1


@pytest.mark.slow
def test_without_staleness_it_has_the_bits_of_a_synchronous_run(cluster, local_run):
    with start(cpus_per_worker=0.25, mode="async", max_staleness=0) as runtime:
        train(runtime, steps=NUM_STEPS)
        assert runtime.digest() == local_run[0]
