from __future__ import annotations

import math

import pytest

from dmeta.runtime.ray.pace import Pace


def paced(*seconds, **options):
    pace = Pace(**options)
    for each in seconds:
        pace.note(each)
    return pace


def test_nothing_is_late_before_enough_is_known_and_hung_only_after_minutes():
    for pace in (paced(), paced(1.0, 1.0), paced(1.0, 1.0, hung_after_s=5.0)):
        assert pace.late_after_s == math.inf
        assert pace.hung_after_s() == 600


def test_late_is_twice_the_usual_and_one_slow_piece_is_not_usual():
    assert paced(1.0, 1.0, 1.0, 50.0).late_after_s == pytest.approx(2.05)
    assert paced(*[1.0] * 10, *[4.0] * 64).late_after_s == pytest.approx(8.05), "what was lately"


def test_hung_is_twenty_times_the_usual_but_never_soon():
    assert paced(0.01, 0.01, 0.01).hung_after_s() == 30
    assert paced(10.0, 10.0, 10.0).hung_after_s() == 200


def test_who_says_when_it_is_hung_is_obeyed_but_for_a_processs_first_piece():
    pace = paced(1.0, 1.0, 1.0, hung_after_s=5.0)
    assert (pace.hung_after_s(), pace.hung_after_s(is_first=True)) == (5, 600)
