"""Seconds of the parts of a computation that follow one another."""

from __future__ import annotations

import itertools
import time
from typing import TypeAlias

import torch

_Mark: TypeAlias = float | torch.cuda.Event


class Laps:
    """A clock that runs from now on; the end of a part is the beginning of the next.

    On a GPU the ends are marks in its queue of work, so that a part is charged for what is computed
    there although nothing waits for it.
    """

    def __init__(self, device: str = "cpu") -> None:
        """Start.

        Args:
            device: where the parts compute.
        """
        self._on_gpu = torch.device(device).type == "cuda"
        self._parts: list[str] = []
        self._marks: list[_Mark] = [self._mark()]

    def end(self, part: str) -> None:
        """What was done since the last end, or the start, was of `part`."""
        self._parts.append(part)
        self._marks.append(self._mark())

    def seconds(self) -> dict[str, float]:
        """Part -> wall-clock seconds, in the order of their first ends. Waits for the GPU."""
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()
        seconds = dict.fromkeys(self._parts, 0.0)
        for part, (begin, end) in zip(self._parts, itertools.pairwise(self._marks), strict=True):
            seconds[part] += _between(begin, end)
        return seconds

    def _mark(self) -> _Mark:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _between(begin: _Mark, end: _Mark) -> float:
    if isinstance(begin, float):
        assert isinstance(end, float)
        return end - begin
    assert not isinstance(end, float)
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1000
