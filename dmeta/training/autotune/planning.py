"""Choosing the execution plan of a run, and the tasks that it computes at once.

``compute.plan=auto`` follows a rule that reads no clock and no free memory, so that the same
command gives the same bits on any number of workers: ``vmap`` on a GPU, and on a CPU if a task's
meta-gradient is less than `LOOP_FROM_OPERATIONS` operations, else ``loop``. (Below, the time goes
into calls, which ``vmap`` makes once for all tasks; above, into convolutions, of which ``vmap``
makes slower ones.) ``compute.plan=measure`` times all plans on the run's first block.

Whatever is chosen becomes part of the run's settings, so that every worker and every resumed run
stays with it. It is compared with the plain loop before the run begins, and an evaluation is tried
(`dmeta.training.autotune.plan_check`); a plan that fails is replaced by the next one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from dmeta.bilevel.compiled import BlockProgram, CompiledBlocks, NotCompilable
from dmeta.bilevel.plans import PlanName, block_gradient, has_images, one_by_one
from dmeta.capacity import available_memory_bytes
from dmeta.runtime.messages import ALONE, Seat
from dmeta.runtime.options import ComputeOptions
from dmeta.tasks.source import is_fixed
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.autotune.memory_prediction import block_peak, most_inner_steps, sized
from dmeta.training.autotune.operations import operations_of
from dmeta.training.autotune.plan_check import INEXACT, WRONG, PlanTrial
from dmeta.training.autotune.plan_timing import compiled_seconds, eager_seconds
from dmeta.training.build import first_line
from dmeta.training.config import RunConfig
from dmeta.training.devices.gpu import random_numbers_kept
from dmeta.training.devices.gpu_memory import free_gpu_bytes
from dmeta.training.setup import PlanChoice, Run
from dmeta.training.work.worker import BlockInputs

AUTO, MEASURE = "auto", "measure"

LOOP_FROM_OPERATIONS = 1_000_000_000
"""Operations of a task's meta-gradient from which ``auto`` takes ``loop`` on a CPU."""

# Bytes of tensors that ``vmap`` may take at once. Not what is free: that is not the same twice.
_AT_ONCE_BYTES = {"cpu": 2 * 2**30, "cuda": 8 * 2**30}

# vmap is taken unless another plan takes at most this part of its time: so that a run chooses the
# same when it is begun again, as far as a clock can tell.
_CLEARLY = 0.8
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
        choice = _by_rule(run, seat)
    elif options.plan == MEASURE:
        choice = _fastest(run, seat)
    elif options.chunk_size == AUTO:
        plan = cast(PlanName, options.plan)
        chunk_size = _block_size(run.config)
        if not one_by_one(plan):
            chunk_size = most_tasks_at_once(run, first_block_inputs(run))
        choice = PlanChoice(plan, chunk_size)
    else:
        assert isinstance(options.chunk_size, int)
        choice = PlanChoice(cast(PlanName, options.plan), options.chunk_size)
    if resumed is None and options.plan not in (AUTO, MEASURE):
        choice = _checked(run, choice, seat)
    elif choice.plan == "compiled" and not choice.seconds:
        # Now rather than in every worker at once: they find it on the disk.
        inputs = first_block_inputs(run)
        CompiledBlocks(run.work.estimator, inputs.algorithm, choice.chunk_size)(*inputs[1:])
    return with_choice(run, choice)


def kept_options(config: RunConfig, resumed: Mapping[str, Any] | None) -> ComputeOptions:
    """The options of `compute`; what is open is as it was chosen when the run was begun.

    Args:
        config: settings.
        resumed: settings that the run was begun with, or None.
    """
    options = config.compute
    if resumed is None:
        return options
    kept = {
        key: resumed["compute"][key]
        for key in ("plan", "chunk_size")
        if getattr(options, key) in (AUTO, MEASURE)
    }
    return dataclasses.replace(options, **kept)


def plan_line(run: Run) -> str | None:
    """What was chosen and why, as a user reads it; None: nothing was compared."""
    choice = run.plan
    if choice is None or not (choice.seconds or choice.comparison or choice.operations):
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
    if choice.operations is not None:
        timed = f"{choice.operations / 1e6:,.3g} million operations a task"
    return "; ".join([f"{plan} ({timed})" if timed else plan, *left_out, *compared])


def most_tasks_at_once(run: Run, inputs: BlockInputs, limit: float | None = None) -> int:
    """The tasks of a block that ``vmap`` may compute at once: all, or as many as fit.

    Args:
        run: the run.
        inputs: of its first block.
        limit: bytes of tensors that they may take; None: 2 GiB on a CPU, 8 GiB on a GPU.
    """
    if limit is None:
        limit = _AT_ONCE_BYTES[inputs.device.type]
    size = len(inputs.tasks.support.x)
    steps = most_inner_steps(inputs)

    def peak(num_tasks: int) -> int:
        return block_peak("vmap", run.work.estimator, sized(inputs, num_tasks, steps))

    if peak(1) * size <= limit:  # what the tasks share is counted for each of them
        return size
    few, more = max(1, min(3, size - 1)), min(4, size)
    start, slope = peak(few), (peak(more) - peak(few)) / max(1, more - few)
    at_once = few + math.floor((limit - start) / max(slope, 1))
    return max(1, min(size, at_once))


def _by_rule(run: Run, seat: Seat) -> PlanChoice:
    inputs = first_block_inputs(run)
    task = sized(inputs, 1, most_inner_steps(inputs))
    with random_numbers_kept(inputs.device.type):
        operations = operations_of(lambda: block_gradient("loop", run.work.estimator, *task))
    order = _preferred(inputs.device.type, operations)
    size, left_out = len(inputs.tasks.support.x), dict[PlanName, str]()
    try:
        size = most_tasks_at_once(run, inputs)
    except (RuntimeError, ValueError) as error:
        left_out["vmap"] = first_line(error)
        order.remove("vmap")
    choice = PlanChoice("loop", size, left_out=left_out, operations=operations)
    return _first_right(_trial(run, inputs, seat), choice, order, {})


def _preferred(device: str, operations: int) -> list[PlanName]:
    """The plans of the rule, the better one first."""
    if device == "cpu" and operations >= LOOP_FROM_OPERATIONS:
        return ["loop", "vmap"]
    return ["vmap", "loop"]


def _fastest(run: Run, seat: Seat) -> PlanChoice:
    inputs = first_block_inputs(run)
    seconds: dict[PlanName, float] = {}
    plan: PlanName
    left_out: dict[PlanName, str] = {}
    chunk_size = len(inputs.tasks.support.x)
    try:
        chunk_size = most_tasks_at_once(run, inputs, _memory_limit(inputs, seat))
        seconds["vmap"] = eager_seconds(run, "vmap", inputs, chunk_size)
    except (RuntimeError, ValueError) as error:
        left_out["vmap"] = first_line(error)
    seconds["loop"] = eager_seconds(run, "loop", inputs, chunk_size)
    if has_images(inputs.meta_params):
        for plan in ("loop_channels_last", "loop_mixed"):
            seconds[plan] = eager_seconds(run, plan, inputs, chunk_size)
    compiled = CompiledBlocks(run.work.estimator, inputs.algorithm, chunk_size)
    if not is_fixed(run.config.task.training):
        left_out["compiled"] = "tasks are of several sizes"
    elif "vmap" in seconds:
        outcome = compiled_seconds(run, inputs, compiled, min(seconds.values()), seat)
        if isinstance(outcome, str):
            left_out["compiled"] = outcome
        else:
            seconds["compiled"] = outcome
    timed = PlanChoice("loop", chunk_size, seconds, left_out)
    trial = _trial(run, inputs, seat)
    return _first_right(trial, timed, _fastest_first(seconds), {"compiled": compiled})


def _first_right(
    trial: PlanTrial,
    choice: PlanChoice,
    order: Sequence[PlanName],
    programs: Mapping[PlanName, BlockProgram],
) -> PlanChoice:
    """The first plan that computes what the plain loop does, and can evaluate.

    Args:
        trial: compares a plan with the plain loop on the run's first block.
        choice: what is known of the plans.
        order: plans, the preferred one first, ``loop`` among them.
        programs: plan -> its program, of those that were compiled.

    Raises:
        ValueError: not even ``loop`` can evaluate.
    """
    left_out = dict(choice.left_out)
    for plan in order:
        try:
            objection = trial.objection(plan, choice.chunk_size, INEXACT, programs.get(plan))
        except NotCompilable as error:  # with the inner steps that are compared
            objection = str(error)
        if objection is None:
            return dataclasses.replace(
                choice, plan=plan, left_out=left_out, comparison=trial.comparison
            )
        if plan == "loop":
            raise ValueError(_refusal(plan, objection))
        left_out[plan] = objection
    raise AssertionError("loop is always among the plans")


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
    remedy = "change the model" if plan == "loop" else "choose compute.plan=loop or auto"
    return (
        f"compute.plan={plan} must compute and evaluate as the plain loop does, got {objection}; "
        f"{remedy}"
    )


def _fastest_first(seconds: Mapping[PlanName, float]) -> list[PlanName]:
    """Plans in the order in which they are to be taken; ``vmap`` before those about as fast."""

    def time_of(plan: PlanName) -> float:
        return seconds[plan] * (_CLEARLY if plan == "vmap" else 1.0)

    return sorted(seconds, key=time_of)


def _memory_limit(inputs: BlockInputs, seat: Seat) -> float:
    """Bytes of tensors that one block may take."""
    if inputs.device.type == "cuda":
        return _MEMORY_SHARE * free_gpu_bytes(inputs.device)
    return _MEMORY_SHARE * available_memory_bytes() / seat.num_beside


def _block_size(config: RunConfig) -> int:
    return min(config.compute.block_size, config.meta_batch_size)


def with_choice(run: Run, choice: PlanChoice) -> Run:
    """The run with a plan and a chunk size that were chosen."""
    compute = dataclasses.replace(
        run.config.compute, plan=choice.plan, chunk_size=choice.chunk_size
    )
    return dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, compute=compute),
        work=dataclasses.replace(run.work, plan=choice.plan, chunk_size=choice.chunk_size),
        plan=choice,
    )


def _shown(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
