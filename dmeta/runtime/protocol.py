"""The protocol of a runtime: who computes and who applies. No Ray, no algorithm.

`training` builds the work (what one block computes) and the server side (the vector and its outer
optimiser); a runtime decides which process computes which block. Whatever it decides, the bits are
the same: a block is computed the same way everywhere and blocks are added in the order of their
index.

Letters: P length of the flat meta-parameter vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from dmeta.runtime.messages import (
    ApplyReport,
    Block,
    BlockReport,
    Gradient,
    GradientResult,
    RuntimeInfo,
    Seat,
    ServerState,
    StepReport,
    Sums,
    Vector,
)


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
