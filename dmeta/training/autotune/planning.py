"""`runtime.plan=auto`: the fastest way to compute a block, found by trying.

The candidates are timed on the run's own first block, for a few seconds: in this process by a
worker (`dmeta.training.autotune.selection`), or by the run itself where it computes there. What is
chosen becomes part of the run's settings, so that every worker and every resumed run stays with it.
A chosen plan is never a guess: where nothing can be timed, it is what was asked for, or ``vmap``.
However it was chosen, it is compared with the plain loop before the run begins, and an evaluation
is tried (`dmeta.training.autotune.plan_check`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, cast

import torch

from dmeta.bilevel.compiled import (
    BlockProgram,
    CompiledBlocks,
    NotCompilable,
    block_program,
)
from dmeta.bilevel.plans import PlanName, has_images, one_by_one
from dmeta.capacity import available_memory_bytes
from dmeta.runtime.options import RuntimeOptions
from dmeta.runtime.protocol import ALONE, Seat
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.autotune.memory_prediction import block_peak, most_inner_steps, sized
from dmeta.training.autotune.plan_check import INEXACT, WRONG, PlanTrial
from dmeta.training.config import RunConfig
from dmeta.training.gpu import random_numbers_kept
from dmeta.training.gpu_memory import free_gpu_bytes
from dmeta.training.setup import PlanChoice, Run
from dmeta.training.worker import BlockInputs

AUTO = "auto"

# vmap is taken unless another plan takes at most this part of its time: so that a run chooses the
# same when it is begun again, as far as a clock can tell.
_CLEARLY = 0.8
_TIMING_S = 5.0  # for each plan; at least one run after the first is timed
_REPEATS = 5
# Seconds that the C++ compiler takes for one operation, about: 1,200 operations took 32 to 46 s.
_SECONDS_PER_OPERATION = 0.04
_LEAST_TO_COMPILE_S = 10.0  # with less to compute, the operations are not even counted
_MEMORY_SHARE = 0.5  # of what is free


def planned(run: Run, resumed: Mapping[str, Any] | None = None, seat: Seat = ALONE) -> Run:
    """The run with a plan and a chunk size, whatever was ``auto``.

    Args:
        run: the run; what its memory budget allows by ``vmap`` is allowed by every plan.
        resumed: settings that the run was begun with, where it is to be resumed.
        seat: who computes besides this process.

    Raises:
        ValueError: the plan that was asked for cannot compute the run, or computes something else
            than the plain loop.
    """
    options = kept_options(run.config, resumed)
    if options.plan == AUTO:
        choice = _fastest(run, seat)
    elif options.chunk_size == AUTO:
        plan = cast(PlanName, options.plan)
        chunk_size = _block_size(run.config)
        if not one_by_one(plan):
            chunk_size = most_tasks_at_once(run, first_block_inputs(run), seat)
        choice = PlanChoice(plan, chunk_size)
    else:
        assert isinstance(options.chunk_size, int)
        choice = PlanChoice(cast(PlanName, options.plan), options.chunk_size)
    if resumed is None and options.plan != AUTO:
        choice = _checked(run, choice, seat)
    elif choice.plan == "compiled" and not choice.seconds:
        # Now rather than in every worker at once: they find it on the disk.
        inputs = first_block_inputs(run)
        CompiledBlocks(run.work.estimator, inputs.algorithm, choice.chunk_size)(*inputs[1:])
    return with_choice(run, choice)


def kept_options(config: RunConfig, resumed: Mapping[str, Any] | None) -> RuntimeOptions:
    """The runtime's options, with what was chosen when the run was begun where they are ``auto``.

    Args:
        config: settings.
        resumed: settings that the run was begun with, or None.
    """
    options = config.runtime
    if resumed is None:
        return options
    kept = {
        key: resumed["runtime"][key]
        for key in ("plan", "chunk_size")
        if getattr(options, key) == AUTO
    }
    return dataclasses.replace(options, **kept)


def plan_line(run: Run) -> str | None:
    """What was chosen and why, as a user reads it; None: nothing was compared."""
    choice = run.plan
    if choice is None or not (choice.seconds or choice.comparison):
        return None
    timed = ", ".join(f"{plan} {_shown(seconds)}" for plan, seconds in choice.seconds.items())
    size = _block_size(run.config)
    chunk = "" if choice.chunk_size >= size else f", {choice.chunk_size} at once"
    left_out = [
        f"{plan} not {'taken' if plan in choice.seconds else 'timed'}: {reason}"
        for plan, reason in choice.left_out.items()
    ]
    compared = [] if choice.comparison is None else [choice.comparison.in_words()]
    plan = f"plan={choice.plan} for blocks of {size} tasks{chunk}"
    return "; ".join([f"{plan} ({timed})" if timed else plan, *left_out, *compared])


def most_tasks_at_once(run: Run, inputs: BlockInputs, seat: Seat = ALONE) -> int:
    """The tasks of a block that ``vmap`` may compute at once: all, or as many as the memory holds.

    Args:
        run: the run.
        inputs: of its first block.
        seat: who shares the memory.
    """
    size = len(inputs.tasks.support.x)
    steps = most_inner_steps(inputs)

    def peak(num_tasks: int) -> int:
        return block_peak("vmap", run.work.estimator, sized(inputs, num_tasks, steps))

    limit = _memory_limit(inputs, seat)
    if peak(1) * size <= limit:  # what the tasks share is counted for each of them
        return size
    few, more = max(1, min(3, size - 1)), min(4, size)
    start, slope = peak(few), (peak(more) - peak(few)) / max(1, more - few)
    at_once = few + math.floor((limit - start) / max(slope, 1))
    return max(1, min(size, at_once))


def _fastest(run: Run, seat: Seat) -> PlanChoice:
    inputs = first_block_inputs(run)
    seconds: dict[PlanName, float] = {}
    plan: PlanName
    left_out: dict[PlanName, str] = {}
    chunk_size = len(inputs.tasks.support.x)
    try:
        chunk_size = most_tasks_at_once(run, inputs, seat)
        seconds["vmap"] = _eager_seconds(run, "vmap", inputs, chunk_size)
    except (RuntimeError, ValueError) as error:
        left_out["vmap"] = _first_line(error)
    seconds["loop"] = _eager_seconds(run, "loop", inputs, chunk_size)
    if has_images(inputs.meta_params):
        for plan in ("loop_channels_last", "loop_mixed"):
            seconds[plan] = _eager_seconds(run, plan, inputs, chunk_size)
    compiled = CompiledBlocks(run.work.estimator, inputs.algorithm, chunk_size)
    if "vmap" in seconds:
        outcome = _compiled_seconds(run, inputs, compiled, min(seconds.values()), seat)
        if isinstance(outcome, str):
            left_out["compiled"] = outcome
        else:
            seconds["compiled"] = outcome
    timed = PlanChoice("loop", chunk_size, seconds, left_out)
    trial = _trial(run, inputs, seat)
    return _first_right(trial, timed, seconds, {"compiled": compiled})


def _first_right(
    trial: PlanTrial,
    timed: PlanChoice,
    seconds: Mapping[PlanName, float],
    programs: Mapping[PlanName, BlockProgram],
) -> PlanChoice:
    """The fastest plan that computes what the plain loop does, and can evaluate.

    Args:
        trial: compares a plan with the plain loop on the run's first block.
        timed: what was timed.
        seconds: plan -> seconds of a block, ``loop`` among them.
        programs: plan -> its program, of those that were compiled.

    Raises:
        ValueError: not even ``loop`` can evaluate.
    """
    left, left_out = dict(seconds), dict(timed.left_out)
    while True:
        plan = _best(left)
        try:
            objection = trial.objection(plan, timed.chunk_size, INEXACT, programs.get(plan))
        except NotCompilable as error:  # with the inner steps that are compared
            objection = str(error)
        if objection is None:
            return dataclasses.replace(
                timed, plan=plan, left_out=left_out, comparison=trial.comparison
            )
        if plan == "loop":
            raise ValueError(_refusal(plan, objection))
        left_out[plan] = objection
        del left[plan]


def _checked(run: Run, choice: PlanChoice, seat: Seat) -> PlanChoice:
    """The plan that was asked for, having computed what the plain loop does, and evaluated.

    Raises:
        ValueError: it did not.
    """
    trial = _trial(run, first_block_inputs(run), seat)
    objection = trial.objection(choice.plan, choice.chunk_size, WRONG)
    if objection is not None:
        raise ValueError(_refusal(choice.plan, objection))
    return dataclasses.replace(choice, comparison=trial.comparison)


def _trial(run: Run, inputs: BlockInputs, seat: Seat) -> PlanTrial:
    limit = _memory_limit(inputs, seat)
    return PlanTrial(run.work, run.outer.initial, inputs, limit)


def _refusal(plan: PlanName, objection: str) -> str:
    remedy = "change the model" if plan == "loop" else "choose runtime.plan=loop or auto"
    return (
        f"runtime.plan={plan} must compute and evaluate as the plain loop does, got {objection}; "
        f"{remedy}"
    )


def _best(seconds: Mapping[PlanName, float]) -> PlanName:
    fastest = min(seconds, key=lambda plan: seconds[plan])
    if "vmap" in seconds and seconds[fastest] > _CLEARLY * seconds["vmap"]:
        return "vmap"
    return fastest


def _eager_seconds(run: Run, plan: PlanName, inputs: BlockInputs, chunk_size: int) -> float:
    size = len(inputs.tasks.support.x)
    if not one_by_one(plan):
        program = block_program(plan, run.work.estimator, inputs.algorithm, chunk_size)
        return _seconds(program, inputs)
    # One task after the other takes as many times the time of one as there are.
    few = min(2, size)
    program = block_program(plan, run.work.estimator, inputs.algorithm)
    return _seconds(program, sized(inputs, few, most_inner_steps(inputs))) * size / few


def _compiled_seconds(
    run: Run, inputs: BlockInputs, program: CompiledBlocks, best: float, seat: Seat
) -> float | str:
    """Seconds of a block, or why it is not worth to find out."""
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
        return _first_line(error)


def _seconds(program: BlockProgram, inputs: BlockInputs) -> float:
    """Of one block, after a first one that is not counted."""
    on_gpu = next(iter(inputs.meta_params.values())).device.type == "cuda"

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


def _memory_limit(inputs: BlockInputs, seat: Seat) -> float:
    """Bytes of tensors that one block may take."""
    device = next(iter(inputs.meta_params.values())).device
    if device.type == "cuda":
        return _MEMORY_SHARE * free_gpu_bytes(device)
    return _MEMORY_SHARE * available_memory_bytes() / seat.num_beside


def _block_size(config: RunConfig) -> int:
    return min(config.runtime.block_size, config.meta_batch_size)


def with_choice(run: Run, choice: PlanChoice) -> Run:
    """The run with a plan and a chunk size that were chosen."""
    runtime = dataclasses.replace(
        run.config.runtime, plan=choice.plan, chunk_size=choice.chunk_size
    )
    return dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, runtime=runtime),
        work=dataclasses.replace(run.work, plan=choice.plan, chunk_size=choice.chunk_size),
        plan=choice,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _shown(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
