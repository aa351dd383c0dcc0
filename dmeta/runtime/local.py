"""Computes every block in this process, one after the other. Knows no Ray.

The same bits as the Ray runtime: arrays are handed over read-only as they would be out of Ray's
object store, results are copied as they would be by a message, torch uses the same number of
threads, and the blocks are added in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from dmeta.runtime.hardware import by_kind, description
from dmeta.runtime.memory import keep_freed_memory
from dmeta.runtime.messages import (
    ALONE,
    Block,
    BlockReport,
    Gradient,
    RuntimeInfo,
    Seat,
    ServerState,
    StepReport,
    named_block,
    num_tasks_of,
)
from dmeta.runtime.options import Device
from dmeta.runtime.protocol import (
    Server,
    ServerFactory,
    Worker,
    WorkerFactory,
)
from dmeta.runtime.threads import torch_threads
from dmeta.runtime.worker_warnings import Warnings

_Answer = TypeVar("_Answer")


class LocalWorkplace:
    """This process (see `dmeta.runtime.protocol.Workplace`)."""

    def __init__(self, device: Device, threads: int) -> None:
        """Raises ValueError if `device` is ``cuda`` and torch finds no GPU."""
        local_device(device)
        self._threads = threads

    def call(self, compute: Callable[[Seat], _Answer]) -> _Answer:
        """``compute(ALONE)``, with as many threads as a worker has."""
        with torch_threads(self._threads):
            return compute(ALONE)


class LocalRuntime:
    """One worker and the server in the calling process (see `dmeta.runtime.protocol.Runtime`)."""

    def __init__(
        self,
        worker_factory: WorkerFactory,
        server_factory: ServerFactory,
        device: Device,
        threads: int,
    ) -> None:
        """Build the worker and the server.

        Raises: ValueError: `device` is ``cuda`` and torch finds no GPU.
        """
        self._threads, self._server_factory = threads, server_factory
        self._device = local_device(device)
        keep_freed_memory()
        start = time.perf_counter()
        with torch_threads(threads):
            self._server: Server | None = server_factory.build()
            self._worker: Worker | None = worker_factory.build(self._device)
        self._start_up = {"workers_s": time.perf_counter() - start}
        self._hardware, self._warnings = description(self._device), Warnings()

    @property
    def info(self) -> RuntimeInfo:
        """Who computes."""
        return RuntimeInfo(
            "local",
            1,
            self._device,
            self._start_up,
            hardware=by_kind({0: self._hardware}),
            warnings=self._warnings.texts,
        )

    def step(
        self,
        step: int,
        blocks: Sequence[Block],
        upcoming: Sequence[Block] = (),  # noqa: ARG002 - nothing is begun before its turn
    ) -> StepReport:
        """Compute the blocks in order and apply the outer update."""
        started = time.perf_counter()
        worker, server = self._parts()
        gradients: list[Gradient] = []
        reports: list[BlockReport] = []
        with torch_threads(self._threads):
            vector = _read_only(server.vector())
            for block in blocks:
                with named_block(block):
                    gradient, report = worker.gradient(vector, block)
                gradients.append(_read_only(gradient))
                reports.append(report)
                self._warnings.note(report.warnings)
            accepted = gradients if all(report.finite for report in reports) else []
            applied = server.commit(step, [server.gather(accepted, num_tasks_of(blocks))])
        return StepReport(reports, applied, 0, 0, time.perf_counter() - started)

    def evaluate(self, blocks: Sequence[Block]) -> Sequence[BlockReport]:
        """Evaluate the blocks in order."""
        worker, server = self._parts()
        reports: list[BlockReport] = []
        with torch_threads(self._threads):
            vector = _read_only(server.vector())
            for block in blocks:
                with named_block(block):
                    reports.append(worker.evaluate(vector, block))
                self._warnings.note(reports[-1].warnings)
        return reports

    def state(self) -> Callable[[], ServerState]:
        """See `dmeta.runtime.protocol.Runtime.state`; at once."""
        state = self._server_factory.joined([self._parts()[1].state()])
        return lambda: state

    def load(self, state: ServerState) -> None:
        """See `dmeta.runtime.protocol.Runtime.load`."""
        [whole] = self._server_factory.divided(state, 1)
        self._parts()[1].load(whole)

    def digest(self) -> str:
        """SHA-256 (hex) of the current meta-parameters."""
        return self._server_factory.digest([self._parts()[1].vector()])

    def close(self) -> None:
        """Let go of the worker and the server. Idempotent."""
        self._worker = None
        self._server = None

    def __enter__(self) -> LocalRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parts(self) -> tuple[Worker, Server]:
        if self._worker is None or self._server is None:
            raise RuntimeError("the runtime must be open, got a closed one; make a new one")
        return self._worker, self._server


def local_device(device: Device) -> str:
    """``cpu`` or ``cuda``, of this process.

    Raises:
        ValueError: cuda is wanted and there is none.
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise ValueError("device=cuda needs a GPU that torch can use, got none; set device=cpu")
    return "cuda" if found and device != "cpu" else "cpu"


_Scalar = TypeVar("_Scalar", bound=np.generic)


def _read_only(vector: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """A copy that nobody can write to, as Ray's object store would hand it over."""
    copy = vector.copy()
    copy.flags.writeable = False
    return copy
