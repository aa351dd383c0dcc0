"""Benchmark of the methods on the same task source and model: seconds and bytes of an outer step.

Measured on real blocks of runs, in this process. Knows no command line and writes nothing.

Letters: T task slots of a block.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from pydantic import PositiveInt

from dmeta.algorithms import ALGORITHMS
from dmeta.bench.timing import seconds_in_turn
from dmeta.bilevel.compiled import block_program
from dmeta.bilevel.plans import BlockGradient
from dmeta.options import check_fields
from dmeta.registry import check_names
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.autotune.peak_memory import peak_bytes
from dmeta.training.setup import Run
from dmeta.training.work.worker import BlockInputs


@dataclass(frozen=True)
class MethodsOptions:
    """What is measured.

    Attributes:
        methods: methods to compare, such as ``[maml,protonet]``; None: all that can learn the task.
        reference: the method that the others are divided by.
        repeats: timed runs of each, in turn.
        out: folder for the table (JSON) and the plot; None: a new one under ./runs.
    """

    methods: tuple[str, ...] | None = None
    reference: str = "maml"
    repeats: PositiveInt = 5
    out: str | None = None

    def __post_init__(self) -> None:
        """Refuses impossible numbers and unknown names."""
        if self.methods == ():
            raise ValueError("bench.methods must have an entry, got none; add one, or set null")
        check_fields(self, "bench")
        check_names(ALGORITHMS, self.methods or (), "bench.methods")
        check_names(ALGORITHMS, [self.reference], "bench.reference")


@dataclass(frozen=True)
class MethodCost:
    """Of one method.

    Attributes:
        method: its name.
        gradient: the meta-gradient estimator.
        plan: by which a block is computed.
        num_tasks: T, of the block that was timed.
        examples: support and query examples of a task, or of a mini-batch (which are the same).
        num_params: meta-parameters (a count).
        seconds: of the block, each timed run.
        peak_bytes: most bytes of tensors at a time, of the block; None: they cannot be counted.
    """

    method: str
    gradient: str
    plan: str
    num_tasks: int
    examples: int
    num_params: int
    seconds: tuple[float, ...]
    peak_bytes: int | None

    @property
    def seconds_per_task(self) -> float:
        """At the median time."""
        return statistics.median(self.seconds) / self.num_tasks


@dataclass(frozen=True)
class MethodCosts:
    """What was found.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: that torch computes with.
        rows: in the order of the methods.
        left_out: method -> why it was not measured.
        reference: the row that the others are divided by.
    """

    device: str
    threads: int
    rows: tuple[MethodCost, ...]
    left_out: Mapping[str, str]
    reference: MethodCost

    def times(self, row: MethodCost) -> float:
        """Seconds of a task, divided by those of the reference."""
        return row.seconds_per_task / self.reference.seconds_per_task

    def memory(self, row: MethodCost) -> float | None:
        """Peak bytes of a block, divided by those of the reference."""
        own, other = row.peak_bytes, self.reference.peak_bytes
        return None if own is None or other is None else own / other


def method_costs(
    runs: Mapping[str, Run], options: MethodsOptions, tell: Callable[[str], None]
) -> MethodCosts:
    """Measure the first block of each run, at the initial meta-parameters, by the run's own plan.

    Args:
        runs: method -> its run, the plan chosen; the reference is among them.
        options: what to measure.
        tell: called with what is going on.
    """
    blocks: dict[str, BlockInputs] = {}
    computations: dict[str, Callable[[], BlockGradient]] = {}
    left_out: dict[str, str] = {}
    for name, run in runs.items():
        tell(f"first block of {name}")
        inputs = first_block_inputs(run)
        compute = _computation(run, inputs)
        try:
            compute()
        except (ValueError, RuntimeError) as error:  # too little memory, say
            left_out[name] = str(error).strip().split("\n")[0]
        else:
            blocks[name], computations[name] = inputs, compute
    check_reference(options.reference, computations, left_out)
    device = next(iter(blocks.values())).tasks.support.x.device.type
    seconds = seconds_in_turn(computations, options.repeats, device)
    rows = []
    for name, compute in computations.items():
        run, tasks = runs[name], blocks[name].tasks
        sizes = {id(part.x): part.x.shape[1] for part in tasks}
        counted = run.work.plan != "compiled" or device != "cpu"
        rows.append(
            MethodCost(
                method=name,
                gradient=run.config.gradient.name,
                plan=run.work.plan,
                num_tasks=len(tasks.support.x),
                examples=sum(sizes.values()),
                num_params=run.work.layout.size,
                seconds=seconds[name],
                peak_bytes=peak_bytes(compute, device) if counted else None,
            )
        )
    [reference] = [row for row in rows if row.method == options.reference]
    return MethodCosts(device, torch.get_num_threads(), tuple(rows), left_out, reference)


def check_reference(reference: str, measured: Collection[str], left_out: Mapping[str, str]) -> None:
    """Raises ValueError, with the reason, if the reference is not among what is measured."""
    if reference not in measured:
        raise ValueError(
            f"bench.reference must be a method that can be measured, got {reference!r} "
            f"({left_out[reference]}); choose another one"
        )


def _computation(run: Run, inputs: BlockInputs) -> Callable[[], BlockGradient]:
    program = block_program(
        run.work.plan, run.work.estimator, inputs.algorithm, run.work.chunk_size
    )
    return lambda: program(*inputs[1:])
