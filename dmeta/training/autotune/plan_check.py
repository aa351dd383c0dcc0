"""Checks before a run starts that an execution plan computes what the plain loop computes.

A plan can be wrong without an error: under `torch.func.vmap` some of torch's backward functions
have wrong derivatives, compiled code may break ties of equal values another way, and some kernels
are less exact than others. So its meta-gradient of the first tasks of the run's first block, at the
initial meta-parameters, is compared with that of ``loop`` in float64. The yardstick is the error
that ``loop`` has in the run's own precision. No clock is read.

Also tried: that the plan can evaluate, which takes other paths through a model than training.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from dmeta.bilevel.compiled import BlockProgram, block_program
from dmeta.bilevel.plans import PlanName, one_by_one
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.types import Params
from dmeta.runtime.messages import Block, Vector
from dmeta.training.autotune.gradient_error import flat, in_float64, relative_difference
from dmeta.training.autotune.memory_prediction import most_inner_steps, sized
from dmeta.training.autotune.peak_memory import peak_bytes
from dmeta.training.autotune.suspects import suspected_modules
from dmeta.training.build import first_line
from dmeta.training.work.worker import BlockInputs, TaskWorkFactory

WRONG = 1e-3
"""A plan is refused over this relative error, if it is more than `_TIMES` that of loop."""

INEXACT = 1e-5
"""The same for what ``compute.plan=auto`` takes."""

_TIMES = 10
_NUM_TASKS = 2
_NUDGE = 1e-7  # about the resolution of float32


@dataclass(frozen=True)
class Comparison:
    """What was compared before the run, as plain data.

    Attributes:
        num_tasks: the first ones of the first block.
        inner_steps: of each; fewer than in the run where the memory does not hold them.
        reference: precision of the loop that was compared with: ``float32`` where method, model or
            loss cannot be computed in ``float64``.
        errors: plan -> relative error of its meta-gradient (2-norm over all meta-parameters); of
            ``loop``, that of its own rounding.
    """

    num_tasks: int
    inner_steps: int
    reference: str
    errors: Mapping[PlanName, float]

    def in_words(self) -> str:
        """As a user reads it."""
        tasks = "1 task" if self.num_tasks == 1 else f"{self.num_tasks} tasks"
        errors = ", ".join(f"{plan} {error:.1e}" for plan, error in self.errors.items())
        return f"error of the meta-gradient of {tasks} against loop in {self.reference}: {errors}"


@dataclass(frozen=True)
class Reference:
    """The meta-gradient that those of plans are compared with.

    Attributes:
        inputs: the tasks that are compared.
        inner_steps: of each.
        gradient: of loop in `precision`; None: it is 0 or not finite, nothing can be compared.
        precision: see `Comparison`.
        loop_error: relative error of loop in the run's own precision; with ``float32``, how far
            loop moves when the meta-parameters are changed by about the resolution of float32.
    """

    inputs: BlockInputs
    inner_steps: int
    gradient: Params | None
    precision: Literal["float64", "float32"]
    loop_error: float


class PlanTrial:
    """Tries plans on a run's first block; what they are compared with is computed once.

    Args:
        work: of the run.
        vector: its initial meta-parameters.
        inputs: its first block.
        memory_limit: bytes of tensors that a comparison may take.
    """

    def __init__(
        self, work: TaskWorkFactory, vector: Vector, inputs: BlockInputs, memory_limit: float
    ) -> None:
        self._work, self._vector = work, vector
        self._inputs, self._memory_limit = inputs, memory_limit
        self._errors: dict[PlanName, float] = {}

    @functools.cached_property
    def _reference(self) -> Reference:
        return loop_reference(self._work.estimator, self._inputs, self._memory_limit)

    @property
    def comparison(self) -> Comparison | None:
        """Of the plans that were tried; None: nothing was compared."""
        if not self._errors:
            return None
        of = self._reference
        errors: dict[PlanName, float] = {"loop": of.loop_error, **self._errors}
        return Comparison(len(of.inputs.task_seeds), of.inner_steps, of.precision, errors)

    def objection(
        self,
        plan: PlanName,
        chunk_size: int,
        least: float,
        program: BlockProgram | None = None,
    ) -> str | None:
        """What is wrong with a plan; None: nothing.

        Args:
            plan: its name; of ``loop``, which is right by definition, only evaluation is tried.
            chunk_size: tasks at once.
            least: the smallest relative error that is objected to.
            program: the plan, if it was compiled before.

        Raises:
            ValueError: it cannot be compiled.
        """
        if plan != "loop" and self._reference.gradient is not None:
            program = program or block_program(
                plan, self._work.estimator, self._inputs.algorithm, chunk_size
            )
            try:
                got = _gradient(program, self._reference.inputs)
            except RuntimeError as error:
                return f"an error: {first_line(error)}"
            self._errors[plan] = off = _error(got, self._reference.gradient)
            if off > max(least, _TIMES * self._reference.loop_error):
                return _explained(plan, got, off, self._reference)
        return self._evaluation_failure(plan, chunk_size)

    def _evaluation_failure(self, plan: PlanName, chunk_size: int) -> str | None:
        work = dataclasses.replace(self._work, plan=plan, chunk_size=chunk_size)
        try:
            work.build(self._inputs.device.type).evaluate(
                self._vector, Block("test", 0, 0, 0, _NUM_TASKS)
            )
        except (RuntimeError, ValueError, TypeError) as error:
            return f"an evaluation that fails: {first_line(error)}"
        return None


def loop_reference(estimator: Estimator, inputs: BlockInputs, memory_limit: float) -> Reference:
    """What plans are compared with.

    Args:
        estimator: what is differentiated.
        inputs: the run's first block.
        memory_limit: bytes of tensors that the comparison may take.
    """

    def loop(of: BlockInputs) -> Params:
        return _gradient(block_program("loop", estimator, of.algorithm), of)

    num_tasks, steps = min(_NUM_TASKS, len(inputs.tasks.support.x)), most_inner_steps(inputs)
    # Of the same stage as the run's own blocks: those of another need another compiled program.
    compared = sized(inputs, num_tasks, steps)._replace(stage=inputs.stage)
    loops: list[Params] = []
    peak = peak_bytes(lambda: loops.append(loop(compared)), inputs.device.type)
    if 2 * peak > memory_limit and steps > 1:  # in float64
        steps = max(1, math.floor(steps * memory_limit / (2 * peak)))
        compared, loops = sized(inputs, num_tasks, steps), []
        loops.append(loop(compared))
    precision: Literal["float64", "float32"] = "float64"
    try:
        exact, [other] = loop(in_float64(compared)), loops
    except (RuntimeError, ValueError, TypeError):  # it has tensors of its own in float32, say
        nudged = {name: p * (1 + _NUDGE) for name, p in compared.meta_params.items()}
        [exact], other = loops, loop(compared._replace(meta_params=nudged))
        precision = "float32"
    values = flat(exact)
    if not values.isfinite().all() or not values.any():
        return Reference(compared, steps, None, precision, math.inf)
    return Reference(compared, steps, exact, precision, _error(other, exact))


def _explained(plan: PlanName, got: Params, error: float, reference: Reference) -> str:
    assert reference.gradient is not None
    modules = [] if one_by_one(plan) else suspected_modules(reference.inputs)
    distances = {n: float((got[n] - g).double().norm()) for n, g in reference.gradient.items()}
    worst = max(distances, key=lambda name: distances[name])
    where = f"suspected: {', '.join(modules)}" if modules else f"most of it in {worst}"
    return (
        f"a meta-gradient that is off by {error:.1e} (loop: {reference.loop_error:.1e}; relative, "
        f"against loop in {reference.precision}), {where}"
    )


def _gradient(program: BlockProgram, inputs: BlockInputs) -> Params:
    """With the same random numbers every time, which are not missed elsewhere."""
    devices = range(torch.cuda.device_count()) if inputs.device.type == "cuda" else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return program(*inputs[1:]).gradients


def _error(got: Params, exact: Params) -> float:
    error = relative_difference(got, exact)
    return error if math.isfinite(error) else math.inf
