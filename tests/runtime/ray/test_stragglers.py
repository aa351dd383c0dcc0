from __future__ import annotations

import pytest

from dmeta.runtime.ray.stragglers import Overdue, Patience


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def practised(clock, *, hung_after_s=None):
    """Worker 0 and 1 have done four blocks of 1 s each; the first is not learned from."""
    patience = Patience(hung_after_s, clock)
    for number in range(4):
        for worker in (0, 1):
            patience.sent(worker, 10 * worker + number, "gradient")
        clock.now += 1
        for worker in (0, 1):
            patience.answered(worker, 10 * worker + number)
    return patience


def test_without_anything_known_nobody_is_overdue_for_minutes(clock):
    patience = Patience(clock=clock)
    patience.sent(0, 0, "gradient")
    assert patience.left_s == 600
    clock.now += 599
    assert patience.overdue() == []
    clock.now += 2
    assert patience.overdue() == [Overdue(0, 601, is_hung=True)]


def test_a_silent_worker_is_late_after_twice_the_usual_and_told_of_once_a_limit(clock):
    patience = practised(clock)
    patience.sent(0, 100, "gradient")
    assert 0 < patience.left_s <= 2.05
    clock.now += 2
    assert patience.overdue() == []
    clock.now += 0.1
    assert patience.overdue() == [Overdue(0, pytest.approx(2.1), is_hung=False)]
    assert patience.left_s == pytest.approx(30 - 2.1)
    assert patience.overdue() == []
    clock.now += 28
    assert patience.overdue() == [Overdue(0, pytest.approx(30.1), is_hung=True)]


def test_a_worker_is_silent_since_its_last_answer_not_since_its_block_was_sent(clock):
    patience = practised(clock)
    patience.sent(0, 100, "gradient")
    patience.sent(0, 101, "gradient")
    clock.now += 1.5
    patience.answered(0, 100)
    clock.now += 1.5
    assert patience.overdue() == []
    clock.now += 1
    assert [each.worker for each in patience.overdue()] == [0]


def test_what_was_sent_early_begins_when_its_input_is_there(clock):
    patience = practised(clock)
    patience.sent(0, 100, "gradient")
    patience.sent(1, 50, "gradient")
    clock.now += 2
    patience.begins(range(100, 200))
    clock.now += 1
    assert [each.worker for each in patience.overdue()] == [1]


def test_kinds_of_work_are_not_measured_by_each_other(clock):
    patience = practised(clock)
    patience.sent(0, 100, "evaluation")
    clock.now += 20
    assert patience.overdue() == []


def test_a_new_processs_first_block_may_take_minutes_before_it_is_hung(clock):
    patience = practised(clock)
    patience.sent(0, 100, "gradient")
    patience.lost(0, 100)
    patience.sent(0, 101, "gradient")
    clock.now += 500
    assert patience.overdue() == [Overdue(0, 500, is_hung=False)]
    clock.now += 101
    assert patience.overdue() == [Overdue(0, 601, is_hung=True)]


def test_a_killed_worker_is_not_overdue_again_at_once(clock):
    patience = practised(clock, hung_after_s=5.0)
    patience.sent(0, 100, "gradient")
    clock.now += 6
    assert patience.overdue() == [Overdue(0, 6, is_hung=True)]
    patience.killed(0)
    clock.now += 1
    assert patience.overdue() == []
    clock.now += 4.1
    assert patience.overdue() == [Overdue(0, pytest.approx(5.1), is_hung=True)]
