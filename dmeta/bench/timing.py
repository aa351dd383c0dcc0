"""Timing of computations that are compared with each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def seconds_in_turn(
    computations: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[str, tuple[float, ...]]:
    """Wall-clock seconds of every computation, run A B C A B C ...

    In turn, so that whatever else the machine does, or how warm it gets, hits all alike. Each
    should have run once before.

    Args:
        computations: name -> what is timed; its result is dropped.
        repeats: how often each is run.
        device: where they compute, ``cpu`` or ``cuda``.

    Returns: name -> one number for each repeat.
    """
    on_gpu = torch.device(device).type == "cuda"
    seconds: dict[str, list[float]] = {name: [] for name in computations}
    for _ in range(repeats):
        for name, compute in computations.items():
            started = time.perf_counter()
            compute()
            if on_gpu:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: tuple(each) for name, each in seconds.items()}
