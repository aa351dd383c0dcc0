"""Warnings about the workers when a run starts: idle ones, and different ones."""

from __future__ import annotations

import math

from dmeta.runtime.messages import RuntimeInfo
from dmeta.training.config import RunConfig


def idle_line(config: RunConfig, info: RuntimeInfo) -> str | None:
    """What to say of workers that training leaves idle, and how to use them; None: none are.

    Args:
        config: settings of the run.
        info: who computes.
    """
    started, blocks = info.num_workers, config.num_blocks
    workers = max(started, info.room)
    if workers <= blocks:
        return None
    size, tasks = config.compute.block_size, config.meta_batch_size
    if started > blocks:
        idle = f"{started - blocks} of {started} workers compute nothing in training, and keep "
        idle += "their GPUs from others" if info.device == "cuda" else "their CPUs from others"
        lower = f"; or lower runtime.num_workers to {blocks}"
    else:
        idle, lower = f"{started} workers are started where {workers} fit", ""
    smaller = math.ceil(tasks / workers)
    block_size = f"compute.block_size={smaller} (another rounding) or " if smaller < size else ""
    return (
        f"a step has {blocks} block{'s' * (blocks != 1)} (meta_batch_size={tasks}, "
        f"compute.block_size={size}), one for each worker: {idle}; to use all, begin a run with "
        f"{block_size}meta_batch_size={size * workers}{lower}"
    )


def mixed_line(info: RuntimeInfo) -> str | None:
    """What to say of workers that compute on different devices; None: they do not.

    Args:
        info: who computes.
    """
    if len(info.hardware) < 2:
        return None
    kinds = [f"{kind.description} (workers {list(kind.workers)})" for kind in info.hardware]
    return (
        "the workers compute on different kinds of devices, so that the bits of a result depend on "
        f"who computes it: {'; '.join(kinds)}"
    )
