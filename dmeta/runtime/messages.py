"""What processes of a run send each other: plain data, of no method and of no runtime.

Letters: P length of the flat meta-parameter vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float32]
"""[P] float32, C-contiguous. Treat as read-only: it may be memory that other processes see."""

Gradient: TypeAlias = npt.NDArray[np.float32 | np.uint16]
"""[P], of a block, read-only likewise: float32, or the bits of bfloat16."""

Phase: TypeAlias = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Block:
    """A run of task slots computed together: the unit that is scheduled, retried and counted.

    The tasks in it follow from the run's seed and these numbers alone.

    Attributes:
        phase: ``train`` for a meta-gradient, ``val`` or ``test`` for an evaluation.
        step: outer step (0 for an evaluation: its tasks are the same at every step).
        index: position among the blocks of the step; sums are taken in this order.
        first_slot: first task slot.
        num_slots: number of task slots.
        with_predictions: whether the report of an evaluation holds predictions besides scores.
        source: of an evaluation, the name of the task source that the tasks are of, among several;
            None: the run's own.
    """

    phase: Phase
    step: int
    index: int
    first_slot: int
    num_slots: int
    with_predictions: bool = False
    source: str | None = None


@dataclass(frozen=True)
class TaskPredictions:
    """What was predicted for tasks of one size.

    Attributes:
        places: which of the block's slots they have, counted from 0.
        ways: classes of each.
        arrays: name -> [len(places), ...] float32.
    """

    places: Sequence[int]
    ways: int
    arrays: Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class BlockReport:
    """The small part of a block's result; the large part is the gradient vector.

    Attributes:
        block: the block it is of.
        sums: name -> sum over the block's tasks (training: loss, metric before and after).
        per_task: name -> [num_slots, ...] float32 (evaluation only).
        finite: whether every number of the gradient and of the losses is finite.
        seconds: wall-clock seconds of the computation on the worker.
        part_seconds: part of the computation -> those of it, which together are `seconds`
            (training only; the parts are the work's to name).
        warnings: what the worker has warned of so far: that its bits may be others the next time.
        predictions: of its tasks, those of one size together (evaluation only, if asked for).
    """

    block: Block
    sums: Mapping[str, float]
    finite: bool
    seconds: float
    per_task: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    part_seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    predictions: Sequence[TaskPredictions] = ()


class GradientResult(NamedTuple):
    """A training block: the summed meta-gradient [P] and its report."""

    gradient: Gradient
    report: BlockReport


@dataclass(frozen=True)
class ApplyReport:
    """What the server did with one step.

    Attributes:
        step: the step.
        applied: False if the summed gradient was not finite, or too large, and therefore dropped.
        gradient_norm: 2-norm of the mean meta-gradient, before clipping; NaN if some block's was
            not finite, and none was added up.
        lr: outer learning rate used.
        seconds: wall-clock seconds of it on the server (of several, on the slowest).
    """

    step: int
    applied: bool
    gradient_norm: float
    lr: float
    seconds: float = field(default=0.0, compare=False)


class ServerState(NamedTuple):
    """All that a server is at one moment, as plain data.

    Attributes:
        step: outer steps applied.
        arrays: name -> array, of any shape; the names are the server's.
    """

    step: int
    arrays: Mapping[str, npt.NDArray[np.generic]]


Sums: TypeAlias = npt.NDArray[np.float64]
"""What a server adds up of its part of the vector, for a decision about all of it."""


@dataclass(frozen=True)
class StepReport:
    """One outer step.

    Attributes:
        blocks: the reports of its blocks, in order.
        applied: what the server did.
        num_retries: blocks that were computed again because a worker was lost.
        num_copies: blocks that were computed twice because a worker was late.
        seconds: wall-clock seconds of the whole step in the process that asked for it.
        measures: name -> what else the runtime observed of it in the step (the names are those of
            `dmeta.runtime.ray.prometheus.MEASURES`).
        staleness: outer steps between the meta-parameters that each block was computed at and
            those it was applied to; empty if that is none by design (``runtime.mode=sync``).
        num_too_stale: blocks that came too late to be applied, and are computed again.
        num_dropped: blocks for which there was no room, and which are computed again.
    """

    blocks: Sequence[BlockReport]
    applied: ApplyReport
    num_retries: int
    num_copies: int
    seconds: float
    measures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    staleness: Sequence[int] = ()
    num_too_stale: int = 0
    num_dropped: int = 0


@dataclass(frozen=True)
class Hardware:
    """What some workers compute on.

    Attributes:
        workers: their numbers.
        description: device, capability and versions, by name.
    """

    workers: tuple[int, ...]
    description: Mapping[str, str]


@dataclass(frozen=True)
class RuntimeInfo:
    """Who computes, for results.json.

    Attributes:
        name: ``ray`` or ``local``.
        num_workers: processes that compute blocks.
        device: ``cpu`` or ``cuda``, the same for all workers.
        start_up: what starting cost: ``workers_s`` seconds until every worker was built; with Ray
            also ``cluster_s`` seconds to start or join the cluster, ``shared_bytes`` size of the
            worker factory in the object store, ``worker_resident_bytes`` largest resident memory
            of a worker (shared pages included).
        room: workers that there is room for, whether or not the blocks of a step need so many.
        hardware: of every worker that was there so far.
        warnings: of the workers' reports so far, each once.
    """

    name: str
    num_workers: int
    device: str
    start_up: Mapping[str, float]
    room: int = 1
    hardware: Sequence[Hardware] = ()
    warnings: Sequence[str] = ()


class Seat(NamedTuple):
    """Where a worker computes, as far as it cannot tell by itself.

    Attributes:
        num_workers: of the run that have a block to compute.
        num_beside: of those, how many may be on its machine, itself included.
    """

    num_workers: int
    num_beside: int


ALONE = Seat(1, 1)
"""This process computes everything."""


def num_tasks_of(blocks: Sequence[Block]) -> int:
    """Task slots of the blocks together: what a summed gradient is divided by."""
    return sum(block.num_slots for block in blocks)


@contextmanager
def named_block(block: Block) -> Iterator[None]:
    """Let an exception that the work raises say (as a note) which block it was computing."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised while computing {block}")
        raise
