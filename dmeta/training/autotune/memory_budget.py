"""`gradient.memory_budget`: the fastest exact meta-gradient that fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch.utils import _pytree as pytree

from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.plans import one_by_one
from dmeta.bilevel.types import Task
from dmeta.options import NamedOptions
from dmeta.runtime.blocks import blocks_of
from dmeta.training.autotune.memory_prediction import (
    EXACT,
    Exact,
    PeakMemory,
    block_peak,
    most_inner_steps,
    predicted_peak,
    sized,
)
from dmeta.training.byte_size import shown_bytes
from dmeta.training.config import MEMORY_BUDGET
from dmeta.training.setup import Run
from dmeta.training.work.worker import BlockInputs


def within_budget(run: Run) -> Run:
    """The run with the fastest exact gradient whose block fits into its budget, if it has one.

    A gradient is tried on the run's first block only if its prediction fits, and taken if what it
    then really needs fits too. Bytes decide, not seconds, so the same run always chooses the same.

    Raises:
        ValueError: none fits.
    """
    budget = run.config.memory_budget
    if budget is None:
        return run
    inputs = first_block_inputs(run)
    size, steps = _tasks_at_once(run, inputs), most_inner_steps(inputs)
    plan = run.work.plan
    predicted: dict[str, int] = {}
    measured: dict[str, int] = {}
    # A resumed run that had chosen checkpointed stays with it.
    for gradient in EXACT[EXACT.index(run.config.gradient.name) :]:
        try:
            predicted[gradient] = predicted_peak(gradient, plan, inputs, size, steps)
        except ValueError:
            continue  # it makes no sense with this method
        if predicted[gradient] <= budget:
            estimator = ESTIMATORS[gradient].make()
            measured[gradient] = block_peak(plan, estimator, sized(inputs, size, steps))
        if measured.get(gradient, budget + 1) <= budget:
            return with_gradient(run, gradient, PeakMemory(budget, predicted, measured[gradient]))
    raise ValueError(_refusal(run, inputs, predicted, measured))


def first_block_inputs(run: Run, num_tasks: int | None = None) -> BlockInputs:
    """What the run's first meta-gradient is computed from, on the device that it is meant for.

    Without a GPU in this process, on the CPU. Where the sizes of tasks vary, those of the block's
    largest size, repeated until they fill the block: about the most that a block may need.

    Args:
        run: the run.
        num_tasks: tasks of the block; None: as in the run.
    """
    config = run.config
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    block = blocks_of("train", 0, config.meta_batch_size, config.compute.block_size)[0]
    if num_tasks is not None:
        block = dataclasses.replace(block, num_slots=num_tasks)
    groups = run.work.build("cuda" if on_gpu else "cpu").block_inputs(run.outer.initial, block)
    if len(groups) == 1:
        return groups[0]
    largest = max(groups, key=lambda inputs: _numbers_of_one(inputs.tasks))
    return _repeated(largest, block.num_slots)


def _repeated(inputs: BlockInputs, num_tasks: int) -> BlockInputs:
    """So many tasks, which are those of `inputs` again and again."""
    rows = torch.arange(num_tasks) % len(inputs.task_seeds)
    tasks = pytree.tree_map(lambda part: part[rows.to(part.device)], inputs.tasks)
    return inputs._replace(tasks=tasks, task_seeds=inputs.task_seeds[rows])


def _numbers_of_one(tasks: Task) -> int:
    """Numbers that a task, of several that are stacked, is given in."""
    return sum(part[0].numel() for part in pytree.tree_leaves(tasks))


def memory_line(run: Run) -> str | None:
    """Predicted and measured, as a user reads it; None: the run has no budget."""
    memory, chosen = run.memory, run.config.gradient.name
    if memory is None:
        return None
    others = [
        f"{gradient}: predicted {shown_bytes(size)}"
        for gradient, size in memory.predicted.items()
        if gradient != chosen
    ]
    return (
        f"gradient={chosen}: predicted {shown_bytes(memory.predicted[chosen])} a block, measured "
        f"{shown_bytes(memory.measured)}, budget {_asked(run)}"
        + (f" ({', '.join(others)})" if others else "")
    )


def _tasks_at_once(run: Run, inputs: BlockInputs) -> int:
    size = len(inputs.tasks.support.x)
    return min(size, run.work.chunk_size or size)


def _asked(run: Run) -> str:
    return str(run.config.gradient.options[MEMORY_BUDGET])


def with_gradient(run: Run, gradient: Exact, memory: PeakMemory) -> Run:
    """The run with a gradient that was chosen, and what that needs."""
    options = run.config.gradient.options
    return dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, gradient=NamedOptions(gradient, options)),
        work=dataclasses.replace(run.work, estimator=ESTIMATORS[gradient].make()),
        memory=memory,
    )


def _refusal(
    run: Run,
    inputs: BlockInputs,
    predicted: Mapping[str, int],
    measured: Mapping[str, int],
) -> str:
    size, steps = _tasks_at_once(run, inputs), most_inner_steps(inputs)
    sizes = [
        f"{gradient}: predicted {shown_bytes(peak)}"
        + (f", measured {shown_bytes(measured[gradient])}" if gradient in measured else "")
        for gradient, peak in predicted.items()
    ]
    less = []
    if size > 1:
        less.append(f"lower compute.chunk_size ({size} tasks at once)")
        if not one_by_one(run.work.plan):
            least: Exact = "checkpointed" if "checkpointed" in predicted else "exact"
            loop = predicted_peak(least, "loop", inputs, size, steps)
            less.append(f"choose compute.plan=loop ({least}: predicted {shown_bytes(loop)})")
    if steps > 1:
        less.append(f"lower algorithm.inner_steps ({steps})")
    return (
        f"gradient.memory_budget must be at least what one block needs ({'; '.join(sizes)}), got "
        f"{_asked(run)}; " + ", or ".join([*less, "raise gradient.memory_budget"])
    )
