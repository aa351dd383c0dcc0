"""Seconds that an execution plan takes for a block of a run. Does not decide which one is taken."""

from __future__ import annotations

import time

import torch

from dmeta.bilevel.compiled import BlockProgram, CompiledBlocks, NotCompilable, block_program
from dmeta.bilevel.plans import PlanName, one_by_one
from dmeta.runtime.messages import Seat
from dmeta.training.autotune.memory_prediction import most_inner_steps, sized
from dmeta.training.build import first_line
from dmeta.training.devices.gpu import random_numbers_kept
from dmeta.training.setup import Run
from dmeta.training.work.worker import BlockInputs

_TIMING_S = 5.0  # for each plan; at least one run after the first is timed
_REPEATS = 5
# Seconds that the C++ compiler takes for one operation, about: 1,200 operations took 32 to 46 s.
_SECONDS_PER_OPERATION = 0.04
_LEAST_TO_COMPILE_S = 10.0  # with less to compute, the operations are not even counted


def eager_seconds(run: Run, plan: PlanName, inputs: BlockInputs, chunk_size: int) -> float:
    """Seconds of a block by a plan that is not compiled.

    Args:
        run: the run.
        plan: any but ``compiled``.
        inputs: of its first block.
        chunk_size: tasks that ``vmap`` computes at once.
    """
    size = len(inputs.tasks.support.x)
    if not one_by_one(plan):
        program = block_program(plan, run.work.estimator, inputs.algorithm, chunk_size)
        return _seconds(program, inputs)
    # One task after the other takes as many times the time of one as there are.
    few = min(2, size)
    program = block_program(plan, run.work.estimator, inputs.algorithm)
    return _seconds(program, sized(inputs, few, most_inner_steps(inputs))) * size / few


def compiled_seconds(
    run: Run, inputs: BlockInputs, program: CompiledBlocks, best: float, seat: Seat
) -> float | str:
    """Seconds of a block, or why they are not measured.

    Args:
        run: the run.
        inputs: of its first block.
        program: is compiled when it is first called.
        best: seconds of a block by the fastest of the other plans.
        seat: who computes besides this process.
    """
    config = run.config
    left = config.steps * config.num_blocks * best / seat.num_workers
    if left < _LEAST_TO_COMPILE_S:
        return f"the run's {left:.2g} s of computing would not repay it"
    try:
        cost = _SECONDS_PER_OPERATION * program.num_operations(*inputs[1:])
        if left < 2 * cost:
            return f"the run's {left:.0f} s of computing would not repay {cost:.0f} s of compiling"
        return _seconds(program, inputs)
    except NotCompilable as error:
        return str(error)
    except RuntimeError as error:  # no C++ compiler, say
        return first_line(error)


def _seconds(program: BlockProgram, inputs: BlockInputs) -> float:
    """Of one block, after a first one that is not counted."""
    on_gpu = inputs.device.type == "cuda"

    def once() -> float:
        started = time.perf_counter()
        program(*inputs[1:])
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    with random_numbers_kept("cuda" if on_gpu else "cpu"):
        once()
        began, timed = time.perf_counter(), [once()]
        while len(timed) < _REPEATS and time.perf_counter() - began < _TIMING_S:
            timed.append(once())
    return min(timed)
