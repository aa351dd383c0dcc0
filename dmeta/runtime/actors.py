"""What runs inside Ray's processes: thin hosts of a `Worker` and of the `Server`.

They know Ray and the protocol, no algorithm. Large results are *returned*, never `ray.put` here:
then the driver owns them and they outlive this process. Large arguments (the vector, gradients,
arrays of the factory) arrive as read-only numpy arrays in shared memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray

from dmeta.runtime.memory import keep_freed_memory
from dmeta.runtime.protocol import (
    ApplyReport,
    Block,
    BlockReport,
    Server,
    ServerFactory,
    Vector,
    Worker,
    WorkerFactory,
    named_block,
)


class WorkerStatus(NamedTuple):
    """A worker that is built and answers."""

    device: str
    resident_bytes: int


class TaskWorkerActor:
    """Computes blocks in a process of its own.

    The worker is built at the first call rather than in the constructor, so that an exception of
    the factory reaches the user as itself and not as the death of an actor. A restart runs the
    constructor again, and with it starts from the factory, as if new.

    The factory comes as a reference in a tuple, so that Ray hands it over as it is. (Given as an
    argument of its own, Ray would resolve it, and warn at each start that restarts need the
    object: the driver keeps it.)
    """

    def __init__(self, factory_ref: tuple[Any], threads: int) -> None:
        self._factory_ref = factory_ref
        self._threads = threads
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._worker: Worker | None = None
        if self._device == "cpu":
            _hide_gpus()

    # A question without effects, so Ray may repeat it until the restarted process answers.
    @ray.method(max_task_retries=-1)
    def status(self) -> WorkerStatus:
        """Build the worker if need be, and say where it computes."""
        self._built()
        return WorkerStatus(self._device, _resident_bytes())

    @ray.method(num_returns=2)
    def gradient(self, vector: Vector, block: Block) -> tuple[Vector, BlockReport]:
        """`Worker.gradient`, as two objects: the large one need never reach the driver."""
        with named_block(block):
            result = self._built().gradient(vector, block)
        return result.gradient, result.report

    def evaluate(self, vector: Vector, block: Block) -> BlockReport:
        """`Worker.evaluate`."""
        with named_block(block):
            return self._built().evaluate(vector, block)

    def _built(self) -> Worker:
        if self._worker is None:
            _set_torch_threads(self._threads)
            keep_freed_memory()
            factory: WorkerFactory = ray.get(self._factory_ref[0])
            self._worker = factory.build(self._device)
        return self._worker


class ParameterServerActor:
    """Holds the meta-parameters and the outer optimiser, on CPU, in a process of its own."""

    def __init__(self, factory: ServerFactory, threads: int) -> None:
        self._factory = factory
        self._threads = threads
        self._server: Server | None = None
        _hide_gpus()

    def vector(self) -> Vector:
        """`Server.vector`."""
        return self._built().vector()

    @ray.method(num_returns=2)
    def apply(self, step: int, num_tasks: int, *gradients: Vector) -> tuple[ApplyReport, Vector]:
        """`Server.apply`, and the vector that the next step starts from.

        The gradients are arguments of their own (not a list), so that Ray resolves them here.
        """
        server = self._built()
        return server.apply(step, gradients, num_tasks), server.vector()

    def save(self, directory: str, progress: Mapping[str, Any]) -> str:
        """`Server.save`."""
        return self._built().save(directory, progress)

    def restore(self, checkpoint: str) -> None:
        """`Server.restore`."""
        self._built().restore(checkpoint)

    def digest(self) -> str:
        """`Server.digest`."""
        return self._built().digest()

    def _built(self) -> Server:
        if self._server is None:
            _set_torch_threads(self._threads)
            self._server = self._factory.build()
        return self._server


def _hide_gpus() -> None:
    """Keep an actor without a GPU off the GPUs (Ray leaves CUDA_VISIBLE_DEVICES as it was)."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _set_torch_threads(threads: int) -> None:
    import torch  # seconds to import: after the constructor, so that processes start at once

    torch.set_num_threads(threads)


def _resident_bytes() -> int:
    """Resident memory of this process (Linux; 0 elsewhere)."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
