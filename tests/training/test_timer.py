"""A clock with laps: every second is of one part."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dmeta.training.work import timer
from dmeta.training.work.timer import Laps


def test_a_part_is_what_passed_since_the_end_before(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.0, 13.0, 17.0])
    monkeypatch.setattr(timer.time, "perf_counter", lambda: next(times))
    clock = Laps()
    clock.end("draw")
    clock.end("compute")
    clock.end("draw")
    assert clock.seconds() == {"draw": 5.0, "compute": 2.0}
    assert list(clock.seconds()) == ["draw", "compute"]


def test_a_clock_without_ends_has_no_parts() -> None:
    assert Laps().seconds() == {}


def test_on_a_gpu_the_ends_are_marks_in_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    queue: list[float] = []  # milliseconds at which the GPU reaches each mark

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.at: float | None = None

        def record(self) -> None:
            self.at = 1000.0 * 2 ** len(queue)
            queue.append(self.at)

        def elapsed_time(self, end: Any) -> float:
            assert waited, "times are known when the GPU is done"
            return float(end.at - (self.at or 0.0))

    class Stream:
        def synchronize(self) -> None:
            waited.append(True)

    waited: list[bool] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    clock = Laps("cuda")
    clock.end("draw")
    clock.end("compute")
    assert not waited, "nothing waits for the GPU before its times are asked for"
    assert clock.seconds() == {"draw": 1.0, "compute": 2.0}
