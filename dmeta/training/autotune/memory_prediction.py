"""Predicts the peak memory of a block of exact meta-gradients from a few small blocks.

Bytes of tensors are counted exactly (`peak_memory`) and grow by the same amount with every task
that is computed at once, every inner step and every iterate that is kept, so a few counts of small
blocks give those of a large one. No clock is read: the same settings always give the same number.

Letters: T tasks of the block, K inner steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch.utils import _pytree as pytree

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.adjoint import num_kept
from dmeta.bilevel.plans import PlanName, block_gradient, eager, one_by_one
from dmeta.bilevel.surrogates import Estimator, inner_problem_of
from dmeta.bilevel.types import Examples, Task
from dmeta.training.autotune.peak_memory import peak_bytes
from dmeta.training.devices.gpu import random_numbers_kept
from dmeta.training.work.worker import BlockInputs

Exact: TypeAlias = Literal["exact", "checkpointed"]
"""The estimators that give the exact meta-gradient."""

EXACT: tuple[Exact, ...] = ("exact", "checkpointed")  # the faster one first

# In smaller blocks something else than in larger ones may be the peak: the query loss rather than a
# step, the first step (which starts from theta, which all tasks share) rather than the others.
_FEW_TASKS = (3, 4)
# Of checkpointed only such as are cut into stretches of the same length: then walk and sweep hold
# equally many points wherever in them the peak is.
_FEW_STEPS: dict[Exact, tuple[int, ...]] = {"exact": (3, 4), "checkpointed": (4, 6, 9)}


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of a run's block, in bytes of tensors.

    Attributes:
        budget: the most that the user allows.
        predicted: estimator -> what was predicted, of those that were thought of.
        measured: of the chosen one, on the first block of the run at the initial parameters.
    """

    budget: int
    predicted: Mapping[str, int]
    measured: int


def most_inner_steps(inputs: BlockInputs) -> int:
    """K, or the most of what a method draws it from; 0 where there is no inner loop."""
    inner = getattr(inputs.algorithm, "inner", None)
    if isinstance(inner, InnerLoop):
        return inner.most_inner_steps
    x, y = inputs.tasks.support
    try:
        problem = inner_problem_of(
            inputs.algorithm, inputs.meta_params, Examples(x[0], y[0]), inputs.stage
        )
    except ValueError:
        return 0
    return problem.num_steps


def sized(inputs: BlockInputs, num_tasks: int, num_steps: int) -> BlockInputs:
    """The first tasks of a block, with so many inner steps."""
    tasks: Task = pytree.tree_map(lambda rows: rows[:num_tasks], inputs.tasks)
    stage = dataclasses.replace(inputs.stage, inner_steps=num_steps)
    return inputs._replace(tasks=tasks, stage=stage, task_seeds=inputs.task_seeds[:num_tasks])


def block_peak(plan: PlanName, estimator: Estimator, inputs: BlockInputs) -> int:
    """Peak bytes of the block's meta-gradient, counted while it is computed.

    Of ``compiled``: those of ``vmap``, which it does not exceed.

    Raises:
        ValueError: the estimator makes no sense with the method.
    """
    device = inputs.device.type
    with random_numbers_kept(device):
        return peak_bytes(lambda: block_gradient(eager(plan), estimator, *inputs), device)


def predicted_peak(
    gradient: Exact, plan: PlanName, inputs: BlockInputs, num_tasks: int, num_steps: int
) -> int:
    """Peak bytes of a block of `num_tasks` tasks with `num_steps` inner steps.

    Args:
        gradient: the estimator.
        plan: how the tasks are computed.
        inputs: a block of at least min(4, num_tasks) tasks.
        num_tasks: T.
        num_steps: K.

    Raises:
        ValueError: the estimator makes no sense with the method.
    """
    if one_by_one(plan):  # one task at a time: more need no more
        num_tasks = min(num_tasks, max(_FEW_TASKS))
    few_tasks = _FEW_TASKS if num_tasks > max(_FEW_TASKS) else (num_tasks,)
    few_steps = _FEW_STEPS[gradient]
    if num_steps <= max(few_steps):
        few_steps = (num_steps,)
    # What grows with the steps grows with every task that takes them: one number of steps will do
    # to tell what grows with the tasks alone.
    sizes = [(few_tasks[0], steps) for steps in few_steps]
    sizes += [(tasks, few_steps[0]) for tasks in few_tasks[1:]]
    estimator = ESTIMATORS[gradient].make()
    peaks = [block_peak(plan, estimator, sized(inputs, *size)) for size in sizes]
    rows = [_features(gradient, *size) for size in sizes]
    # Fewer sizes than features: the rest, which is not extrapolated, is left out by least norm.
    weights = np.linalg.lstsq(np.array(rows), np.array(peaks, dtype=float))[0]
    return round(float(_features(gradient, num_tasks, num_steps) @ weights))


def _features(gradient: Exact, tasks: int, steps: int) -> npt.NDArray[np.floating[Any]]:
    """What the bytes are linear in."""
    # Checkpointed too has what grows with K: the query losses, where that of every iterate counts.
    kept = [tasks * num_kept(steps)] if gradient == "checkpointed" else []
    return np.array([1.0, tasks, tasks * steps, *kept])
