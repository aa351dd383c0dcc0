from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmeta.runtime.schedule import Assignment, RoundFailed, Schedule


def test_free_workers_take_the_next_blocks_in_order():
    schedule = Schedule(2, [0, 1, 2], max_attempts=1)
    assert schedule.assign() == [Assignment(0, 0), Assignment(1, 1)]


def test_a_worker_is_given_a_second_block_only_while_there_is_one_for_each():
    schedule = Schedule(4, [0, 1], max_attempts=1)
    assert schedule.assign() == [Assignment(0, 0), Assignment(1, 1), Assignment(0, 2)]
    schedule.done(1, 1)
    assert schedule.assign() == [Assignment(1, 3)]


def test_a_single_worker_never_waits_for_a_message():
    schedule = Schedule(3, [0], max_attempts=1)
    assert schedule.assign() == [Assignment(0, 0), Assignment(0, 1)]


def test_a_lost_workers_blocks_go_to_others_lowest_first():
    schedule = Schedule(5, [0, 1], max_attempts=2)
    schedule.assign()  # 0: blocks 0 and 2, 1: block 1 and 3
    assert not schedule.lost(0, 2, "killed")  # block 0 is still to be heard of
    assert schedule.lost(0, 0, "killed")
    schedule.done(1, 1)
    schedule.done(1, 3)
    assert schedule.assign() == [Assignment(1, 0), Assignment(1, 2)]
    assert schedule.num_retries == 2


def test_a_lost_worker_gets_nothing_until_it_is_back():
    schedule = Schedule(1, [0], max_attempts=2)
    schedule.assign()
    schedule.lost(0, 0, "killed")
    assert schedule.assign() == []
    schedule.back(0)
    assert schedule.assign() == [Assignment(0, 0)]


def test_only_the_block_being_computed_is_charged_with_a_loss():
    schedule = Schedule(2, [0], max_attempts=2)
    schedule.assign()  # 0 computes block 0, block 1 waits behind it
    schedule.lost(0, 1, "killed")
    schedule.lost(0, 0, "killed")
    schedule.back(0)
    schedule.assign()
    with pytest.raises(RoundFailed, match=r"block 0 was lost 2 times .*last cause: out of memory"):
        schedule.lost(0, 1, "out of memory")


def test_a_round_without_workers_fails_and_names_what_is_missing():
    schedule = Schedule(3, [0], max_attempts=2)
    schedule.assign()
    schedule.done(0, 0)
    schedule.lost(0, 1, "node lost")
    schedule.gone(0)
    with pytest.raises(RoundFailed, match=r"no worker is left to compute blocks \[1, 2\]"):
        schedule.assign()


def test_a_restarting_worker_starts_the_round_without_a_block():
    schedule = Schedule(2, [0, 1], max_attempts=1, restarting=[0])
    assert schedule.assign()[0] == Assignment(1, 0)


@given(
    num_blocks=st.integers(1, 12),
    num_workers=st.integers(1, 5),
    choices=st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=60),
)
def test_each_block_counts_once_under_any_sequence_of_failures(num_blocks, num_workers, choices):
    schedule = Schedule(num_blocks, range(num_workers), max_attempts=1000)
    in_flight: list[Assignment] = []
    down: set[int] = set()
    counted: list[int] = []
    num_lost = 0
    script = iter(choices)
    while not schedule.finished:
        for started in schedule.assign():
            assert started.worker not in down
            assert started.block not in counted
            assert started.block not in [call.block for call in in_flight]
            in_flight.append(started)
        pick, fails = next(script, (0, False))
        dead = [worker for worker in down if worker not in [call.worker for call in in_flight]]
        if dead and (not in_flight or pick % 2):
            down.discard(dead[0])
            schedule.back(dead[0])
            continue
        call = in_flight.pop(pick % len(in_flight))
        if fails or call.worker in down:
            num_lost += 1
            down.add(call.worker)
            drained = schedule.lost(call.worker, call.block, "killed")
            assert drained == (call.worker not in [other.worker for other in in_flight])
        elif schedule.done(call.worker, call.block):
            counted.append(call.block)
    assert sorted(counted) == list(range(num_blocks))
    assert schedule.num_retries == num_lost
    assert not in_flight
