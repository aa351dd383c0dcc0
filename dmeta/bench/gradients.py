"""Benchmark of every meta-gradient estimator: seconds, bytes, and error against the exact one.

Measured on a real block of a run, in this process. Knows no command line and writes nothing.

Letters: T tasks of the block, K inner steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import NonNegativeInt, PositiveInt

from dmeta.bench.agreement import Agreement, agreement_of
from dmeta.bench.timing import seconds_in_turn
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.plans import BlockGradient, PlanName, block_gradient, eager
from dmeta.bilevel.surrogates import Estimator
from dmeta.options import check_fields
from dmeta.registry import check_names
from dmeta.training.autotune.gradient_error import in_float64
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.autotune.memory_prediction import (
    EXACT,
    block_peak,
    most_inner_steps,
    predicted_peak,
    sized,
)
from dmeta.training.byte_size import parse_bytes, shown_bytes
from dmeta.training.devices.gpu import random_numbers_kept
from dmeta.training.setup import Run
from dmeta.training.work.worker import BlockInputs


@dataclass(frozen=True)
class GradientsOptions:
    """What is measured.

    Attributes:
        inner_steps: numbers of inner steps to try, such as ``[1,2,5,10,20]``; None: the method's
            own (algorithm.inner_steps).
        num_tasks: tasks of the block; None: those of the run's first block (compute.block_size).
        gradients: meta-gradients to try, such as ``[exact,checkpointed]``; None: all that make
            sense with the method.
        repeats: timed runs of each.
        memory_limit: a meta-gradient that is predicted to take more memory is not computed, such
            as ``500MB`` or ``1.5GiB``.
        out: folder for the table (JSON) and the plot; None: a new one under ./runs.
    """

    inner_steps: tuple[NonNegativeInt, ...] | None = None
    num_tasks: PositiveInt | None = None
    gradients: tuple[str, ...] | None = None
    repeats: PositiveInt = 5
    memory_limit: str | int = "8GB"
    out: str | None = None

    def __post_init__(self) -> None:
        """Refuses impossible numbers and unknown names."""
        for key in ("inner_steps", "gradients"):
            if getattr(self, key) == ():
                raise ValueError(f"bench.{key} must have an entry, got none; add one, or set null")
        check_fields(self, "bench")
        check_names(ESTIMATORS, self.gradients or (), "bench.gradients")
        _ = self.limit_bytes

    @property
    def limit_bytes(self) -> int:
        """`memory_limit` as a number."""
        return parse_bytes(self.memory_limit, "bench.memory_limit")


@dataclass(frozen=True)
class Cost:
    """Of one estimator at one number of inner steps.

    Attributes:
        gradient: its name.
        inner_steps: K.
        seconds: of one block, each timed run.
        peak_bytes: most bytes of tensors at a time.
        predicted_bytes: of `dmeta.training.autotune.memory_prediction`; None: not an exact one.
        agreement: with the exact meta-gradient; None: that would need too much memory.
    """

    gradient: str
    inner_steps: int
    seconds: tuple[float, ...]
    peak_bytes: int
    predicted_bytes: int | None
    agreement: Agreement | None

    @property
    def median_seconds(self) -> float:
        """Of one block."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class LeftOut:
    """An estimator that was not measured.

    Attributes:
        gradient: its name.
        inner_steps: K; None: all.
        reason: why.
    """

    gradient: str
    inner_steps: int | None
    reason: str


@dataclass(frozen=True)
class GradientCosts:
    """What was found.

    Attributes:
        num_tasks: T.
        plan: how the tasks are computed.
        device: ``cpu`` or ``cuda``.
        rows: in the order of K, then of the registry.
        left_out: what was not measured, and why.
    """

    num_tasks: int
    plan: PlanName
    device: str
    rows: tuple[Cost, ...]
    left_out: tuple[LeftOut, ...]


def gradient_costs(
    run: Run, options: GradientsOptions, tell: Callable[[str], None]
) -> GradientCosts:
    """Measure the estimators on the run's first block, at the initial meta-parameters.

    Args:
        run: the run.
        options: what to measure.
        tell: called with what is going on.
    """
    inputs = first_block_inputs(run, options.num_tasks)
    size, plan = len(inputs.tasks.support.x), run.work.plan
    all_steps = options.inner_steps or (most_inner_steps(inputs),)
    usable, left_out = _usable(run, inputs, options.gradients, min(2, max(all_steps)))
    rows: list[Cost] = []
    for steps in all_steps:
        tell(f"{steps} inner steps: {len(usable)} meta-gradients")
        predicted = _predicted(plan, inputs, size, steps)
        too_large = {
            name: LeftOut(name, steps, f"predicted {shown_bytes(peak)}, bench.memory_limit is less")
            for name, peak in predicted.items()
            if peak > options.limit_bytes and name in usable
        }
        left_out += too_large.values()
        estimators = {name: each for name, each in usable.items() if name not in too_large}
        rows += _costs(plan, estimators, sized(inputs, size, steps), predicted, options)
    return GradientCosts(size, plan, inputs.device.type, tuple(rows), tuple(left_out))


def _usable(
    run: Run, inputs: BlockInputs, names: Sequence[str] | None, steps: int
) -> tuple[dict[str, Estimator], list[LeftOut]]:
    """Estimators that make sense with the method, and the others with the reason they give."""
    usable, left_out = {}, []
    for name in ESTIMATORS if names is None else names:
        is_own = name == run.config.gradient.name
        estimator = run.work.estimator if is_own else ESTIMATORS[name].make()
        try:
            _compute(run.work.plan, estimator, sized(inputs, 1, steps))
        except ValueError as refused:
            left_out.append(LeftOut(name, None, str(refused)))
        else:
            usable[name] = estimator
    return usable, left_out


def _predicted(plan: PlanName, inputs: BlockInputs, size: int, steps: int) -> dict[str, int]:
    """Of every exact estimator that makes sense with the method, asked for or not."""
    predicted: dict[str, int] = {}
    for name in EXACT:
        try:
            predicted[name] = predicted_peak(name, plan, inputs, size, steps)
        except ValueError:
            continue
    return predicted


def _costs(
    plan: PlanName,
    estimators: Mapping[str, Estimator],
    inputs: BlockInputs,
    predicted: Mapping[str, int],
    options: GradientsOptions,
) -> list[Cost]:
    """All estimators at one number of inner steps."""
    peaks = {name: block_peak(plan, each, inputs) for name, each in estimators.items()}
    runs = {
        name: lambda each=each: _compute(plan, each, inputs) for name, each in estimators.items()
    }
    seconds = seconds_in_turn(runs, options.repeats, inputs.device.type)
    agreements = _agreements(plan, estimators, inputs, predicted, options.limit_bytes)
    return [
        Cost(
            gradient=name,
            inner_steps=inputs.stage.inner_steps or 0,
            seconds=seconds[name],
            peak_bytes=peaks[name],
            predicted_bytes=predicted.get(name),
            agreement=agreements.get(name),
        )
        for name in estimators
    ]


def _agreements(
    plan: PlanName,
    estimators: Mapping[str, Estimator],
    inputs: BlockInputs,
    predicted: Mapping[str, int],
    limit_bytes: int,
) -> dict[str, Agreement]:
    """With `exact`, one task after the other; with `checkpointed` where that takes too much memory.

    One after the other whatever the plan: then a mistake of a plan shows too.
    """
    too_large = {name for name, peak in predicted.items() if 2 * peak > limit_bytes}
    reference = next((name for name in EXACT if name in predicted and name not in too_large), None)
    if reference is None:
        return {}
    double = in_float64(inputs)
    exact = _compute("loop", ESTIMATORS[reference].make(), double).gradients
    return {
        name: agreement_of(
            _compute(plan, estimator, double).gradients,
            _compute(plan, estimator, inputs).gradients,
            exact,
        )
        for name, estimator in estimators.items()
        if name not in too_large
    }


def _compute(plan: PlanName, estimator: Estimator, inputs: BlockInputs) -> BlockGradient:
    """A block as a worker computes it, with the same random numbers every time (for dropout)."""
    with random_numbers_kept(inputs.device.type):
        torch.manual_seed(0)
        return block_gradient(eager(plan), estimator, *inputs)
