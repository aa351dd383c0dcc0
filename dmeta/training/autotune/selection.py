"""Makes the automatic choices of a run on one of its workers, where it will compute.

A plan that is timed, or memory that is measured, on another machine (the head of a cluster, say,
without a GPU) would be the wrong one. Only what was chosen comes back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from dmeta.bilevel.plans import PlanName, one_by_one
from dmeta.runtime.messages import ALONE, Seat
from dmeta.runtime.protocol import Workplace
from dmeta.training.autotune.memory_budget import with_gradient, within_budget
from dmeta.training.autotune.memory_prediction import Exact, PeakMemory
from dmeta.training.autotune.planning import AUTO, MEASURE, kept_options, planned, with_choice
from dmeta.training.devices.gpu_memory import out_of_memory
from dmeta.training.setup import PlanChoice, Run


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        plan: and the tasks at once.
        gradient: the name of the exact gradient that fits ``gradient.memory_budget``, and what
            that needs; None: there is no budget.
    """

    plan: PlanChoice
    gradient: tuple[Exact, PeakMemory] | None


@dataclass(frozen=True)
class _Settle:
    """Chooses; travels to a worker.

    Attributes:
        run: the run, without its algorithm: the work has that.
        begun: settings that it was begun with, if it was.
    """

    run: Run
    begun: Mapping[str, Any] | None

    def __call__(self, seat: Seat) -> Selection:
        run = dataclasses.replace(self.run, algorithm=self.run.work.algorithm)
        try:
            run = planned(within_budget(run), self.begun, seat)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(tasks_at_once=1) from error
        assert run.plan is not None
        memory = run.memory
        name: Any = run.config.gradient.name
        return Selection(run.plan, None if memory is None else (name, memory))


def with_selection(run: Run, begun: Mapping[str, Any] | None, workplace: Workplace) -> Run:
    """The run with its gradient, plan and chunk size, whatever was left open.

    Args:
        run: the run.
        begun: settings that it was begun with, where it is to be resumed.
        workplace: where it will compute; is asked only if something has to be found out there.

    Raises:
        ValueError: no gradient fits the budget, or ``compute.plan=compiled`` cannot be compiled.
        GpuMemoryError: a GPU has not enough memory for one task.
    """
    settle = _Settle(dataclasses.replace(run, algorithm=cast(Any, None)), begun)
    found = workplace.call(settle) if is_open(run, begun) else settle(ALONE)
    if found.gradient is not None:
        run = with_gradient(run, *found.gradient)
    return with_choice(run, found.plan)


def is_open(run: Run, begun: Mapping[str, Any] | None) -> bool:
    """Whether something has to be computed to settle the run."""
    if begun is None:
        return True  # the plan is compared with the plain loop, chosen or asked for
    options = kept_options(run.config, begun)
    if run.config.memory_budget is not None or options.plan in (AUTO, MEASURE, "compiled"):
        return True
    return options.chunk_size == AUTO and not one_by_one(cast(PlanName, options.plan))
