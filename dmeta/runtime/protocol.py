"""The protocol of a runtime. Plain types only: no Ray, no algorithm.

`training` builds the work (what one block computes) and the server side (the vector and its outer
optimiser); a runtime decides which process computes which block. Whatever it decides, the bits are
the same: a block is computed the same way everywhere and blocks are added in the order of their
index.

Letters: P length of the flat meta-parameter vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias, TypeVar

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
    """

    phase: Phase
    step: int
    index: int
    first_slot: int
    num_slots: int
    with_predictions: bool = False


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
    """

    block: Block
    sums: Mapping[str, float]
    finite: bool
    seconds: float
    per_task: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    part_seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class GradientResult(NamedTuple):
    """A training block: the summed meta-gradient [P] and its report."""

    gradient: Gradient
    report: BlockReport


class Worker(Protocol):
    """Computes blocks. One per worker process; built there by a `WorkerFactory`.

    The same block gives the same bits whatever was computed before it, on any worker, any number
    of times. `vector` is read-only (it may be memory that other processes see): copy it into own
    tensors; `torch.from_numpy` on it warns, and a write through it would change what others read.
    """

    def gradient(self, vector: Vector, block: Block) -> GradientResult:
        """The summed meta-gradient of the block's tasks at the meta-parameters `vector`."""
        ...

    def evaluate(self, vector: Vector, block: Block) -> BlockReport:
        """Per-task results of the block's tasks at the meta-parameters `vector`."""
        ...


class WorkerFactory(Protocol):
    """Plain, picklable data that becomes a worker on a device.

    Its numpy arrays are shared by the workers of a node, hence read-only there: large data belongs
    in arrays of the factory.
    """

    def build(self, device: str) -> Worker:
        """A worker that computes on `device` (``cpu`` or ``cuda``)."""
        ...


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


class Server(Protocol):
    """Owns meta-parameters and their outer optimiser: all of a run's, or a part of the vector.

    Built by a `ServerFactory`. A step is taken in two halves, for the servers of several parts must
    know of each other whether, and how far: `gather`, then `commit` with what all have gathered.

    Letters: p length of the part.
    """

    def vector(self) -> Vector:
        """A copy of the current meta-parameters [p]."""
        ...

    def gather(self, gradients: Sequence[Gradient], num_tasks: int) -> Sums:
        """Add the blocks' gradients [p] in order, and divide by num_tasks; nothing moves yet.

        `gradients` is empty when the step was rejected.
        """
        ...

    def commit(self, step: int, sums: Sequence[Sums]) -> ApplyReport:
        """Take the outer step with what was gathered last; without gradients it only counts.

        Taking a step that was already taken does nothing.

        Args:
            step: outer step.
            sums: of the servers of all parts, in order.
        """
        ...

    def state(self) -> ServerState:
        """A copy of all that decides what it will do next."""
        ...

    def load(self, state: ServerState) -> None:
        """Become what `state` returned."""
        ...


class ServerFactory(Protocol):
    """Plain, picklable data that becomes a server."""

    def build(self) -> Server:
        """The server in its initial state."""
        ...

    def parts(self, num: int) -> Sequence[ServerFactory]:
        """The factories of servers of parts of the vector, one after the other; at most `num`.

        Together they do what the one of the whole does, to the bit.
        """
        ...

    def joined(self, parts: Sequence[ServerState]) -> ServerState:
        """The whole's state, as it is written to disk, of those that the parts' servers return."""
        ...

    def divided(self, state: ServerState, num: int) -> Sequence[ServerState]:
        """What `joined` joins, for the servers of ``parts(num)``.

        Raises:
            ValueError: the state is of something else.
        """
        ...

    def digest(self, pieces: Sequence[Vector]) -> str:
        """SHA-256 (hex) of the meta-parameters whose vector these are, one after the other."""
        ...


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

_Answer = TypeVar("_Answer")


class Workplace(Protocol):
    """Where a run is going to compute, before it has a runtime."""

    def call(self, compute: Callable[[Seat], _Answer]) -> _Answer:
        """``compute(seat)``, in a process that is placed as the run's workers will be.

        Args:
            compute: plain, picklable data that can be called; so is what it returns.

        Raises:
            ValueError: workers cannot be placed.
            Exception: what `compute` raised.
        """
        ...


class Runtime(Protocol):
    """Computes steps and evaluations somewhere. A context manager: leaving it stops everything."""

    @property
    def info(self) -> RuntimeInfo:
        """Who computes."""
        ...

    def step(
        self, step: int, blocks: Sequence[Block], upcoming: Sequence[Block] = ()
    ) -> StepReport:
        """Compute every block at the current meta-parameters and apply the outer update.

        An asynchronous runtime applies as many blocks as these, of this step or another's.

        Args:
            step: outer step.
            blocks: its blocks.
            upcoming: those of the next step, if there will be one: they may be begun at once.
        """
        ...

    def evaluate(self, blocks: Sequence[Block]) -> Sequence[BlockReport]:
        """Evaluate every block at the current meta-parameters; reports in order of index."""
        ...

    def state(self) -> Callable[[], ServerState]:
        """The server's whole state, without waiting: what is returned does that, on any thread."""
        ...

    def load(self, state: ServerState) -> None:
        """Let the server become what `state` returned.

        Raises:
            ValueError: the state is of something else; nothing has changed then.
        """
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of the current meta-parameters."""
        ...

    def close(self) -> None:
        """Stop every process and actor this runtime started. Idempotent."""
        ...

    def __enter__(self) -> Runtime: ...

    def __exit__(self, *_: object) -> None: ...


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
