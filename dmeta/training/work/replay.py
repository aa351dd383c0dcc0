"""Computes one block of a run again, as it was and task by task. Knows no runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dmeta.bilevel.types import Task
from dmeta.runtime.messages import Block, Vector
from dmeta.runtime.reduction import widened
from dmeta.training.setup import Run
from dmeta.training.work.episodes import rng_key


@dataclass(frozen=True)
class Replayed:
    """What a gradient, of a block or of one task, looks like.

    Attributes:
        block: what was computed; of one task, a block of that task alone.
        task_seeds: of its tasks, one list each.
        finite: whether every number of it is finite.
        gradient_norm: 2-norm of the summed meta-gradient (not of the mean).
        norms: meta-parameter -> 2-norm of its part of that.
        sums: name -> sum over the tasks.
    """

    block: Block
    task_seeds: list[list[int]]
    finite: bool
    gradient_norm: float
    norms: Mapping[str, float]
    sums: Mapping[str, float]


def replay_block(
    run: Run, device: str, vector: Vector, block: Block
) -> tuple[list[Replayed], dict[str, npt.NDArray[Any]]]:
    """Compute a training block at the meta-parameters `vector`, then each of its tasks alone.

    Args:
        run: the run.
        device: ``cpu`` or ``cuda``.
        vector: [P] float32.
        block: of T tasks.

    Returns: the block and then its tasks; and as arrays ``meta_params`` [P], ``gradient`` [P] (the
        block's) and ``support_x``, ``support_y``, ``query_x``, ``query_y`` [T, ...], as the network
        gets them; of tasks of several sizes ``support_x_0`` [S, ...], ``support_x_1`` and so on.
    """
    work = run.work.build(device)
    alone = [
        dataclasses.replace(block, first_slot=slot, num_slots=1)
        for slot in range(block.first_slot, block.first_slot + block.num_slots)
    ]
    replayed, arrays = [], {"meta_params": np.asarray(vector)}
    for part in (block, *alone):
        gradient, report = work.gradient(vector, part)
        total = torch.from_numpy(widened(gradient))
        slots = range(part.first_slot, part.first_slot + part.num_slots)
        norms = {n: float(p.norm()) for n, p in run.work.layout.unflatten(total).items()}
        seeds = [rng_key(run.config.seed, part, slot) for slot in slots]
        norm = float(total.norm())
        replayed.append(Replayed(part, seeds, report.finite, norm, norms, dict(report.sums)))
        if part is block:
            arrays["gradient"] = total.numpy().copy()
    groups = work.block_inputs(vector, block)
    if len(groups) == 1:
        return replayed, arrays | _arrays_of(groups[0].tasks)
    for place, part in enumerate(alone):
        (inputs,) = work.block_inputs(vector, part)
        arrays |= {f"{name}_{place}": a[0] for name, a in _arrays_of(inputs.tasks).items()}
    return replayed, arrays


def _arrays_of(tasks: Task) -> dict[str, npt.NDArray[Any]]:
    """``support_x``, ``support_y``, ``query_x``, ``query_y`` of stacked tasks."""
    return {
        f"{name}_{part}": getattr(getattr(tasks, name), part).cpu().numpy()
        for name in ("support", "query")
        for part in ("x", "y")
    }
