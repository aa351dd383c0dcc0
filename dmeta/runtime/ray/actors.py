"""The Ray actors: thin hosts of a `Worker` and of the `Server`.

They know Ray and the protocol, no algorithm. Large results are *returned*, never `ray.put` here:
then the driver owns them and they outlive this process. Large arguments (the vector, gradients,
arrays of the factory) arrive as read-only numpy arrays in shared memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray

from dmeta.runtime.hardware import description
from dmeta.runtime.memory import keep_freed_memory, limit_gpu_memory
from dmeta.runtime.messages import (
    ApplyReport,
    Block,
    BlockReport,
    Gradient,
    Seat,
    ServerState,
    Sums,
    Vector,
    named_block,
)
from dmeta.runtime.protocol import (
    Server,
    ServerFactory,
    Worker,
    WorkerFactory,
)
from dmeta.runtime.reduction import added


class WorkerStatus(NamedTuple):
    """A worker that is built and answers."""

    device: str
    resident_bytes: int
    node: str
    hardware: Mapping[str, str]


class NotBuiltError(RuntimeError):
    """Ray has restarted the process; its worker must be built again first."""


class TaskWorkerActor:
    """Computes blocks in a process of its own.

    The factory is an argument of `build`, not of the constructor: so an exception of the factory
    reaches the user as itself and not as the death of an actor, and Ray does not warn at each
    start that it needs the object for restarts. A restart leaves a process without a worker.
    """

    def __init__(self, threads: int, label: str, gpu_share: float) -> None:
        self._threads, self._label, self._gpu_share = threads, label, gpu_share
        self._device = "cuda" if see_own_gpus() else "cpu"
        self._worker: Worker | None = None

    def __repr__(self) -> str:
        return self._label

    # Building twice builds the same, so Ray may repeat it until a restarted process answers.
    @ray.method(max_task_retries=-1)
    def build(self, factory: WorkerFactory) -> WorkerStatus:
        """Make the worker, unless there is one, and say where it computes."""
        if self._worker is None:
            self._set_up()
            self._worker = factory.build(self._device)
            _set_torch_threads(self._threads)  # torch may have come with it
        node = ray.get_runtime_context().get_node_id()
        return WorkerStatus(self._device, _resident_bytes(), node, description(self._device))

    def ready(self) -> None:
        """Answer as soon as the process is there."""

    def call(self, compute: Callable[[Seat], Any], seat: Seat) -> Any:
        """See `dmeta.runtime.protocol.Workplace.call`."""
        self._set_up()
        return compute(seat)

    def gradient(self, block: Block, *pieces: Vector) -> tuple[Gradient | BlockReport, ...]:
        """`Worker.gradient` at the vector of these pieces; in as many pieces, then the report.

        An object each: the large ones need never reach the driver.
        """
        worker = self._built()
        with named_block(block):
            result = worker.gradient(_whole(pieces), block)
        cuts = np.cumsum([len(piece) for piece in pieces[:-1]])
        return *np.split(result.gradient, cuts), result.report

    def evaluate(self, block: Block, *pieces: Vector) -> BlockReport:
        """`Worker.evaluate` at the vector of these pieces."""
        worker = self._built()
        with named_block(block):
            return worker.evaluate(_whole(pieces), block)

    def _set_up(self) -> None:
        """Set up this process before it computes anything."""
        _set_torch_threads(self._threads)
        keep_freed_memory()
        if self._device == "cuda":
            limit_gpu_memory(self._gpu_share)

    def _built(self) -> Worker:
        if self._worker is None:
            raise NotBuiltError("the worker process was restarted")
        return self._worker


class AdderActor:
    """Adds gradients where they are, so that one leaves a node and not one for each worker."""

    def add(self, num_pieces: int, *pieces: Gradient) -> tuple[int | Vector, ...]:
        """The sum of gradients of `num_pieces` each, in as many.

        Before it its length: a sign that it is there, which weighs nothing.
        """
        sums = [added(pieces[place::num_pieces]) for place in range(num_pieces)]
        return sum(map(len, sums)), *sums


class KeeperActor:
    """Has copies of what others return where it is, so that they outlive the others' nodes."""

    def keep(self, state: ServerState) -> ServerState:
        """The same, as a new object, on this node."""
        return state


class ParameterServerActor:
    """Holds meta-parameters and the outer optimiser, on CPU, in a process of its own."""

    def __init__(self, factory: ServerFactory, threads: int, label: str) -> None:
        self._factory = factory
        self._threads, self._label = threads, label
        self._server: Server | None = None
        see_own_gpus()

    def __repr__(self) -> str:
        return self._label

    @ray.method(num_returns=2)
    def vector(self) -> tuple[int, Vector]:
        """`Server.vector`, behind its length: a sign that it is there, which weighs nothing."""
        vector = self._built().vector()
        return len(vector), vector

    @ray.method(num_returns=2)
    def apply(self, step: int, num_tasks: int, *gradients: Gradient) -> tuple[ApplyReport, Vector]:
        """Take a step, without servers of other parts; and the vector that the next starts from.

        The gradients are arguments of their own (not a list), so that Ray resolves them here.
        """
        server = self._built()
        sums = server.gather(gradients, num_tasks)
        return server.commit(step, [sums]), server.vector()

    def gather(self, num_tasks: int, *gradients: Gradient) -> Sums:
        """`Server.gather`."""
        return self._built().gather(gradients, num_tasks)

    @ray.method(num_returns=2)
    def commit(self, step: int, *sums: Sums) -> tuple[ApplyReport, Vector]:
        """`Server.commit`, and the vector that the next step starts from."""
        server = self._built()
        return server.commit(step, sums), server.vector()

    def state(self) -> ServerState:
        """`Server.state`."""
        return self._built().state()

    def load(self, state: ServerState) -> None:
        """`Server.load`."""
        self._built().load(state)

    def digest(self, *others: Vector) -> str:
        """`ServerFactory.digest` of this part and the others."""
        return self._factory.digest([self._built().vector(), *others])

    def _built(self) -> Server:
        if self._server is None:
            _set_torch_threads(self._threads)
            self._server = self._factory.build()
            _set_torch_threads(self._threads)
        return self._server


def actor_label(run_id: str, role: str) -> str:
    """What Ray shows an actor as: in its dashboard, in `ray list actors`, before its output.

    A `repr`, not a name: names must be unique, and a worker that takes a lost one's place is shown
    as that one was.

    Args:
        run_id: of the run.
        role: ``server``, or ``worker-<number>``.
    """
    return f"dmeta:{run_id}:{role}"


def _whole(pieces: Sequence[Vector]) -> Vector:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def see_own_gpus() -> list[str]:
    """Let this actor or task see the GPUs that it was given, before torch looks; these.

    Ray does so only for those with a GPU, and not at all with
    RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES: then all would compute on the first.
    """
    given = [str(gpu) for gpu in ray.get_gpu_ids()]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(given)
    return given


def _set_torch_threads(threads: int) -> None:
    """Of torch, if it is there; work that does not use it is spared its import (seconds)."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _resident_bytes() -> int:
    """Resident memory of this process (Linux; 0 elsewhere)."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
