"""Computations that are compared run in turn."""

from __future__ import annotations

import time

from dmeta.bench.timing import seconds_in_turn


def test_they_run_a_b_a_b() -> None:
    ran: list[str] = []

    def slow() -> None:
        ran.append("slow")
        time.sleep(0.01)

    seconds = seconds_in_turn({"slow": slow, "fast": lambda: ran.append("fast")}, repeats=3)
    assert ran == ["slow", "fast"] * 3
    assert [len(each) for each in seconds.values()] == [3, 3]
    assert min(seconds["slow"]) >= 0.01 > min(seconds["fast"])
