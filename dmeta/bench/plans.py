"""Benchmark of the execution plans on one block: seconds, bytes, error of the meta-gradient.

Measured on real blocks of a run, in this process. Knows no command line and writes nothing.

Letters: T tasks of a block.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from pydantic import PositiveInt

from dmeta.bench.rates import product_rate
from dmeta.bench.timing import seconds_in_turn
from dmeta.bilevel.compiled import block_program
from dmeta.bilevel.plans import BlockGradient, PlanName, has_images
from dmeta.bilevel.types import Params
from dmeta.options import check_fields
from dmeta.training.autotune.gradient_error import in_float64, relative_difference
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.autotune.operations import operations_of
from dmeta.training.autotune.peak_memory import peak_bytes
from dmeta.training.devices.gpu import random_numbers_kept
from dmeta.training.setup import Run
from dmeta.training.work.worker import BlockInputs

PLANS: tuple[PlanName, ...] = get_args(PlanName)
REFERENCE: PlanName = "loop"


@dataclass(frozen=True)
class PlansOptions:
    """What is measured.

    Attributes:
        num_tasks: numbers of tasks of a block to try, such as ``[1,2,4,8]``; None: that of the
            run's first block (compute.block_size).
        plans: plans to try, such as ``[vmap,compiled]``; None: all.
        repeats: timed runs of each, in turn.
        out: folder for the table (JSON) and the plot; None: a new one under ./runs.
    """

    num_tasks: tuple[PositiveInt, ...] | None = None
    plans: tuple[PlanName, ...] | None = None
    repeats: PositiveInt = 5
    out: str | None = None

    def __post_init__(self) -> None:
        """Refuses impossible numbers and unknown names."""
        for key in ("num_tasks", "plans"):
            if getattr(self, key) == ():
                raise ValueError(f"bench.{key} must have an entry, got none; add one, or set null")
        check_fields(self, "bench")


@dataclass(frozen=True)
class PlanCost:
    """Of one plan at one number of tasks.

    Attributes:
        plan: its name.
        num_tasks: T.
        seconds: of one block, each timed run.
        peak_bytes: most bytes of tensors at a time; None: they cannot be counted.
        compile_seconds: of the first call, beyond those of a usual one; None: nothing is compiled.
        error: of its meta-gradient as the run computes it, relative to that of `loop` in float64.
    """

    plan: PlanName
    num_tasks: int
    seconds: tuple[float, ...]
    peak_bytes: int | None
    compile_seconds: float | None
    error: float

    @property
    def median_seconds(self) -> float:
        """Of one block."""
        return statistics.median(self.seconds)

    @property
    def tasks_per_second(self) -> float:
        """At the median time."""
        return self.num_tasks / self.median_seconds


@dataclass(frozen=True)
class LeftOutPlan:
    """A plan that was not measured.

    Attributes:
        plan: its name.
        num_tasks: T from which on; None: any.
        reason: why.
    """

    plan: PlanName
    num_tasks: int | None
    reason: str


@dataclass(frozen=True)
class PlanCosts:
    """What was found.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: that torch computes with.
        rows: in the order of T, then of the plans.
        left_out: what was not measured, and why.
        reference: precision of the `loop` that errors are relative to: ``float32`` if it cannot be
            computed in ``float64``.
        operations: floating-point operations of one task by `loop` (`dmeta.bench.rates`).
        product_rate: operations per second of a product of matrices, in the same run and in the
            precision of the run.
    """

    device: str
    threads: int
    rows: tuple[PlanCost, ...]
    left_out: tuple[LeftOutPlan, ...]
    reference: str
    operations: int
    product_rate: float

    def share(self, row: PlanCost) -> float:
        """Of the rate of a product of matrices, in [0, 1]."""
        return row.tasks_per_second * self.operations / self.product_rate


def plan_costs(run: Run, options: PlansOptions, tell: Callable[[str], None]) -> PlanCosts:
    """Measure the plans on the run's first block, at the initial meta-parameters.

    A block is the first T task slots of the run, cut into chunks if ``compute.chunk_size`` is set.

    Args:
        run: the run.
        options: what to measure.
        tell: called with what is going on.
    """
    sizes = sorted(set(options.num_tasks or (_block_size(run),)))
    plans = list(dict.fromkeys(options.plans or PLANS))
    rows: list[PlanCost] = []
    left_out: list[LeftOutPlan] = []
    one = first_block_inputs(run, 1)
    device = one.tasks.support.x.device.type
    with random_numbers_kept(device):
        operations = operations_of(_computation(run, REFERENCE, one))
    half = run.config.compute.precision == "bfloat16"
    rate = product_rate(device, torch.bfloat16 if half else torch.float32)
    for size in sizes:
        inputs = first_block_inputs(run, size)
        usable = [plan for plan in plans if plan not in {each.plan for each in left_out}]
        tell(f"block of {size}: {', '.join(usable)}")
        with random_numbers_kept(device):
            exact, precision = _reference(run, inputs)
            measured, refused = _costs(run, usable, inputs, exact, options.repeats)
        rows += measured
        first = None if size == sizes[0] else size
        left_out += [LeftOutPlan(plan, first, reason) for plan, reason in refused.items()]
    return PlanCosts(
        device, torch.get_num_threads(), tuple(rows), tuple(left_out), precision, operations, rate
    )


def _block_size(run: Run) -> int:
    return min(run.config.compute.block_size, run.config.meta_batch_size)


_Compute = Callable[[], BlockGradient]


def _reference(run: Run, inputs: BlockInputs) -> tuple[Params, str]:
    """The meta-gradient by `loop` in float64, or in float32 if it cannot be had."""
    try:
        return _computation(run, REFERENCE, in_float64(inputs))().gradients, "float64"
    except (RuntimeError, ValueError, TypeError):  # it has tensors of its own in float32, say
        return _computation(run, REFERENCE, inputs)().gradients, "float32"


def _costs(
    run: Run, plans: Sequence[PlanName], inputs: BlockInputs, exact: Params, repeats: int
) -> tuple[list[PlanCost], dict[PlanName, str]]:
    """All plans at one number of tasks; those that cannot be done, and why."""
    device, num_tasks = inputs.tasks.support.x.device.type, len(inputs.tasks.support.x)
    first_seconds: dict[PlanName, float] = {}
    errors: dict[PlanName, float] = {}
    left_out: dict[PlanName, str] = {}
    computations: dict[str, _Compute] = {}
    for plan in plans:
        compute = _computation(run, plan, inputs)
        try:
            _check_is_another(plan, inputs.meta_params)
            [first_seconds[plan]] = seconds_in_turn({plan: compute}, 1, device)[plan]
            errors[plan] = relative_difference(compute().gradients, exact)
        except (ValueError, RuntimeError) as error:  # no vmap, no program, no compiler, no memory
            left_out[plan] = str(error).strip().split("\n")[0]
        else:
            computations[plan] = compute
    measured = [plan for plan in plans if plan not in left_out]
    peaks = {plan: _peak(plan, computations[plan], device) for plan in measured}
    seconds = seconds_in_turn(computations, repeats, device)
    rows = [
        PlanCost(
            plan=plan,
            num_tasks=num_tasks,
            seconds=seconds[plan],
            peak_bytes=peaks[plan],
            compile_seconds=_compile_seconds(plan, first_seconds, seconds),
            error=errors[plan],
        )
        for plan in measured
    ]
    return rows, left_out


def _computation(run: Run, plan: PlanName, inputs: BlockInputs) -> _Compute:
    """The block by a plan, with the same random numbers every time (for dropout)."""
    program = block_program(plan, run.work.estimator, inputs.algorithm, run.work.chunk_size)

    def compute() -> BlockGradient:
        torch.manual_seed(0)
        return program(*inputs[1:])

    return compute


def _check_is_another(plan: PlanName, meta_params: Params) -> None:
    if plan in ("loop_channels_last", "loop_mixed") and not has_images(meta_params):
        raise ValueError("no meta-parameter has 4 dimensions, so it is the same as loop")


def _peak(plan: PlanName, compute: _Compute, device: str) -> int | None:
    # On the CPU tensors are counted as torch's dispatcher makes them, and the code that was
    # compiled makes its own without it.
    if plan == "compiled" and device == "cpu":
        return None
    return peak_bytes(compute, device)


def _compile_seconds(
    plan: PlanName, first: Mapping[PlanName, float], usual: Mapping[str, Sequence[float]]
) -> float | None:
    if plan != "compiled":
        return None
    return max(0.0, first[plan] - statistics.median(usual[plan]))
