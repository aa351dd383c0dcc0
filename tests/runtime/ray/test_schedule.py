from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmeta.runtime.ray.schedule import Assignment, RoundFailed, Schedule


def scheduled(num_blocks, num_workers, **options):
    schedule = Schedule(range(num_workers), **{"max_attempts": 2} | options)
    schedule.want(num_blocks)
    return schedule


def test_free_workers_take_the_next_blocks_in_order():
    assert scheduled(2, 3).assign() == [Assignment(0, 0), Assignment(1, 1)]


def test_a_worker_is_given_a_second_block_only_while_there_is_one_for_each():
    schedule = scheduled(4, 2)
    assert schedule.assign() == [Assignment(0, 0), Assignment(1, 1), Assignment(0, 2)]
    assert schedule.done(1, 1)
    assert schedule.assign() == [Assignment(1, 3)]


def test_a_single_worker_never_waits_for_a_message():
    assert scheduled(3, 1).assign() == [Assignment(0, 0), Assignment(0, 1)]


def test_blocks_are_numbered_on_and_on():
    schedule = Schedule([0], max_attempts=1)
    assert (schedule.want(2), schedule.want(3)) == (range(2), range(2, 5))


def test_what_is_forgotten_is_not_started_and_its_results_do_not_count():
    schedule = scheduled(3, 1)
    schedule.assign()
    schedule.forget()
    assert not schedule.is_missing(range(3))
    again = schedule.want(1)
    assert not schedule.done(0, 0), "of before"
    assert schedule.is_missing(again)
    assert schedule.assign() == [Assignment(0, 3)], "behind block 1, which is still computed"


def test_a_lost_workers_blocks_go_to_others_lowest_first():
    schedule = scheduled(5, 2)
    schedule.assign()  # 0: blocks 0 and 2, 1: block 1 and 3
    schedule.lost(0, 2, "killed")  # block 0 is still to be heard of
    assert not schedule.is_lost(0)
    schedule.lost(0, 0, "killed")
    assert schedule.is_lost(0)
    schedule.done(1, 1)
    schedule.done(1, 3)
    assert schedule.assign() == [Assignment(1, 0), Assignment(1, 2)]
    assert schedule.num_retries == 2


def test_without_an_end_no_block_is_kept_back_for_a_worker_that_is_free_first():
    schedule = scheduled(4, 3, is_endless=True)
    assert [each.worker for each in schedule.assign()] == [0, 1, 2, 0]


def test_workers_that_are_away_are_not_waited_for():
    schedule = scheduled(4, 9)
    for worker in range(2, 9):
        schedule.away(worker)
    assert [each.worker for each in schedule.assign()] == [0, 1, 0]


def test_workers_of_one_place_take_neighbouring_blocks():
    schedule = scheduled(8, 4)
    schedule.arrange(lambda worker: "ab"[worker % 2])
    assert schedule.assign()[:4] == [
        Assignment(0, 0),
        Assignment(2, 1),
        Assignment(1, 2),
        Assignment(3, 3),
    ]


def test_a_worker_is_lost_though_its_last_answer_comes_after_the_news_of_its_death():
    schedule = scheduled(2, 1)
    schedule.assign()
    schedule.lost(0, 1, "killed")
    assert schedule.done(0, 0), "a result all the same"
    assert schedule.is_lost(0)
    schedule.back(0)
    assert schedule.assign() == [Assignment(0, 1)]


def test_a_lost_worker_gets_nothing_until_it_is_back():
    schedule = scheduled(1, 1)
    schedule.assign()
    schedule.lost(0, 0, "killed")
    assert schedule.assign() == []
    schedule.back(0)
    assert schedule.assign() == [Assignment(0, 0)]


def test_only_the_block_being_computed_is_charged_with_a_loss():
    schedule = scheduled(2, 1)
    schedule.assign()  # 0 computes block 0, block 1 waits behind it
    schedule.lost(0, 1, "killed")
    schedule.lost(0, 0, "killed")
    schedule.back(0)
    schedule.assign()
    with pytest.raises(RoundFailed, match=r"lost 2 times .*last cause: out of memory") as failed:
        schedule.lost(0, 1, "out of memory")
    assert failed.value.block == 0


def test_blocks_without_workers_fail_and_are_named():
    schedule = scheduled(3, 1)
    schedule.assign()
    schedule.done(0, 0)
    schedule.lost(0, 1, "node lost")
    schedule.gone(0)
    with pytest.raises(RoundFailed, match="no worker is left") as failed:
        schedule.assign()
    assert failed.value.block == 1


def test_a_worker_that_is_away_gets_no_block():
    schedule = scheduled(2, 2)
    schedule.away(0)
    assert schedule.assign()[0] == Assignment(1, 0)


def test_below_the_least_number_of_workers_nothing_is_started():
    schedule = scheduled(2, 2, min_workers=2)
    schedule.away(0)
    assert (schedule.num_up, schedule.assign()) == (1, [])
    schedule.back(0)
    assert len(schedule.assign()) == 2


def test_a_late_workers_block_is_given_to_an_idle_one_and_the_first_result_wins():
    schedule = scheduled(2, 2)
    schedule.assign()
    schedule.late(0)
    assert schedule.assign() == [], "worker 1 is busy"
    assert schedule.done(1, 1)
    assert schedule.assign() == [Assignment(1, 0)]
    assert schedule.assign() == [], "one copy"
    assert schedule.done(1, 0)
    assert not schedule.done(0, 0)
    assert (schedule.num_copies, schedule.num_retries) == (1, 0)


def test_a_late_worker_gets_nothing_more_until_it_has_answered():
    schedule = scheduled(1, 2)
    schedule.assign()
    schedule.late(0)
    schedule.assign()
    schedule.done(1, 0)
    more = schedule.want(2)
    assert schedule.assign() == [Assignment(1, more[0])]
    assert not schedule.done(0, 0)
    assert schedule.assign() == [Assignment(0, more[1])]


def test_a_copy_that_is_late_too_is_copied_again():
    schedule = scheduled(1, 3)
    schedule.assign()
    schedule.late(0)
    assert schedule.assign() == [Assignment(1, 0)]
    schedule.late(1)
    assert schedule.assign() == [Assignment(2, 0)]


def test_a_block_lost_by_one_worker_while_another_computes_it_is_not_queued():
    schedule = scheduled(1, 2)
    schedule.assign()
    schedule.late(0)
    schedule.assign()
    schedule.lost(0, 0, "killed")
    assert schedule.num_retries == 0
    assert schedule.assign() == []
    assert schedule.done(1, 0)


@given(
    num_blocks=st.integers(1, 12),
    num_workers=st.integers(1, 5),
    choices=st.lists(
        st.tuples(st.integers(0, 100), st.sampled_from(["done", "lost", "late"])), max_size=60
    ),
)
def test_each_block_counts_once_under_any_sequence_of_failures(num_blocks, num_workers, choices):
    schedule = scheduled(num_blocks, num_workers, max_attempts=1000)
    in_flight: list[Assignment] = []
    down: set[int] = set()
    late: set[int] = set()
    counted: list[int] = []
    script = iter(choices)
    while schedule.is_missing(range(num_blocks)):
        for started in schedule.assign():
            assert started.worker not in down
            assert started.worker not in late
            assert started.block not in counted
            assert started not in in_flight
            in_flight.append(started)
        pick, what = next(script, (0, "done"))
        dead = [worker for worker in down if worker not in [call.worker for call in in_flight]]
        if dead and (not in_flight or pick % 2):
            down.discard(dead[0])
            schedule.back(dead[0])
            continue
        call = in_flight[pick % len(in_flight)]
        if what == "late" and call.worker not in down:
            schedule.late(call.worker)
            late.add(call.worker)
            continue
        in_flight.remove(call)
        late.discard(call.worker)
        if what == "lost":
            down.add(call.worker)
            schedule.lost(call.worker, call.block, "killed")
        elif schedule.done(call.worker, call.block):
            counted.append(call.block)
        held = any(other.worker == call.worker for other in in_flight)
        assert schedule.is_lost(call.worker) == (call.worker in down and not held)
    assert sorted(counted) == list(range(num_blocks))
