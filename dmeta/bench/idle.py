"""Work that computes nothing, so that a step is messages, copies and additions only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dmeta.runtime.messages import (
    ApplyReport,
    Block,
    BlockReport,
    Gradient,
    GradientResult,
    ServerState,
    Sums,
    Vector,
)
from dmeta.runtime.reduction import total_of

_VECTOR = "vector"


def idle_state(num_bytes: int) -> ServerState:
    """Where a server of a vector of so many bytes begins."""
    return ServerState(0, {_VECTOR: np.zeros(num_bytes // 4, np.float32)})


@dataclass(frozen=True)
class IdleWorkers:
    """Becomes workers that return a gradient of ones without computing anything."""

    def build(self, device: str) -> IdleWorker:  # noqa: ARG002 - a factory's
        """One of them."""
        return IdleWorker()


class IdleWorker:
    """See `dmeta.runtime.protocol.Worker`."""

    def gradient(self, vector: Vector, block: Block) -> GradientResult:
        """Ones."""
        return GradientResult(np.ones_like(vector), BlockReport(block, {}, True, 0.0))

    def evaluate(self, vector: Vector, block: Block) -> BlockReport:  # noqa: ARG002 - a worker's
        """Nothing."""
        return BlockReport(block, {}, True, 0.0)


@dataclass(frozen=True)
class SumServers:
    """Becomes servers that add up what comes, of vectors of any length."""

    def build(self) -> SumServer:
        """One of them."""
        return SumServer()

    def parts(self, num: int) -> list[SumServers]:
        """All the same."""
        return [self] * num

    def joined(self, parts: Sequence[ServerState]) -> ServerState:
        """The sum so far."""
        return ServerState(
            parts[0].step, {_VECTOR: np.concatenate([part.arrays[_VECTOR] for part in parts])}
        )

    def divided(self, state: ServerState, num: int) -> list[ServerState]:
        """A sum, of any length."""
        pieces = np.array_split(state.arrays[_VECTOR], num)
        return [ServerState(state.step, {_VECTOR: piece}) for piece in pieces]

    def digest(self, pieces: Sequence[Vector]) -> str:
        """The first number, which is the number of steps."""
        return f"{float(pieces[0][0])}"


class SumServer:
    """Adds gradients, and has no optimiser (see `dmeta.runtime.protocol.Server`)."""

    def __init__(self) -> None:
        self._step = 0
        self._vector: Vector = np.zeros(1, np.float32)
        self._mean: Vector = np.zeros(1, np.float32)
        self._seconds = 0.0

    def vector(self) -> Vector:
        """A copy."""
        return self._vector.copy()

    def gather(self, gradients: Sequence[Gradient], num_tasks: int) -> Sums:
        """The mean; nothing to be decided by."""
        started = time.perf_counter()
        self._mean = total_of(gradients)
        self._mean /= np.float32(num_tasks)
        self._seconds = time.perf_counter() - started
        return np.empty(0)

    def commit(self, step: int, sums: Sequence[Sums]) -> ApplyReport:  # noqa: ARG002 - a server's
        """Add the mean."""
        started = time.perf_counter()
        if step >= self._step:
            self._vector += self._mean
            self._step = step + 1
        seconds = self._seconds + time.perf_counter() - started
        return ApplyReport(step, True, 0.0, 0.0, seconds)

    def state(self) -> ServerState:
        """The sum so far."""
        return ServerState(self._step, {_VECTOR: self._vector.copy()})

    def load(self, state: ServerState) -> None:
        """Go on from a sum, of any length."""
        self._step = state.step
        self._vector = np.array(state.arrays[_VECTOR], np.float32)
