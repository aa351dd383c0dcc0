"""How many steps a second the parameter server takes, with workers that compute nothing.

What is left of a step is messages, copies and additions: the most that any run can do with so many
workers and so large a model, and from where on the server is the bottleneck. Knows no command line.

Letters: W workers, S bytes of a vector.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from dmeta.runtime import RuntimeOptions, make_runtime
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.cluster import connected, nodes_for_workers
from dmeta.runtime.gathering import parts_of
from dmeta.runtime.protocol import (
    ApplyReport,
    Block,
    BlockReport,
    Gradient,
    GradientResult,
    Runtime,
    ServerState,
    Sums,
    Vector,
)
from dmeta.runtime.summation import FAN_IN, total_of

Way: TypeAlias = Literal["flat", "tree", "sharded"]
WAYS: tuple[Way, ...] = get_args(Way)

_VECTOR = "vector"
_WARMUP, _LEAST = 2, 3  # steps
_SHARE = 0.01  # of a CPU: workers that compute nothing need no room


@dataclass(frozen=True)
class ScaleOptions:
    """What is measured.

    Attributes:
        workers: how many, in turn.
        megabytes: of the vector, in turn.
        ways: of the gradients to the server (``runtime.reduce``), in turn.
        seconds: of steps, for each.
    """

    workers: tuple[int, ...] = (1, 2, 4, 8)
    megabytes: tuple[float, ...] = (0.05, 0.5, 4.0)
    ways: tuple[Way, ...] = WAYS
    seconds: float = 2.0

    def __post_init__(self) -> None:
        """Refuses what can not be measured."""
        for key in ("workers", "megabytes", "ways"):
            if not getattr(self, key):
                raise ValueError(f"bench.{key} must name at least one, got none; name one")
        if min(self.workers) < 1:
            raise ValueError(f"bench.workers must be >= 1, got {min(self.workers)}; raise it")
        for key, least in (("megabytes", min(self.megabytes)), ("seconds", self.seconds)):
            if least <= 0:
                raise ValueError(f"bench.{key} must be > 0, got {least}; raise it")


@dataclass(frozen=True)
class Capacity:
    """What the server takes.

    Attributes:
        num_workers: W, each with one block a step.
        num_bytes: S.
        way: of the gradients to the server.
        num_parts: of the server.
        num_steps: measured.
        seconds: of them together.
        model_seconds: of one step, as the model says (`predicted`).
    """

    num_workers: int
    num_bytes: int
    way: Way
    num_parts: int
    num_steps: int
    seconds: float
    model_seconds: float

    @property
    def steps_per_second(self) -> float:
        """Outer steps."""
        return self.num_steps / self.seconds

    @property
    def gradient_bytes_per_second(self) -> float:
        """Of all workers' gradients."""
        return self.steps_per_second * self.num_workers * self.num_bytes


@dataclass(frozen=True)
class Rates:
    """What the model is made of, measured with one worker.

    Attributes:
        step_seconds: of a step of the smallest vector: its messages.
        bytes_per_second: of a gradient from a worker into a sum.
    """

    step_seconds: float
    bytes_per_second: float


def predicted(
    rates: Rates, num_workers: int, num_bytes: int, way: Way, num_parts: int = 1
) -> float:
    """Seconds of a step if a vector at a time goes into a sum, and all sums of a level at once.

    ``flat``: W vectors into one sum. ``tree``: `FAN_IN` into each sum of a level, with a message
    more for each level. ``sharded``: W vectors into one sum for each of `num_parts`, all at once,
    with a message more for what the parts tell each other.
    """
    level, num_levels = num_workers, 0
    while way == "tree" and level > FAN_IN:
        level, num_levels = math.ceil(level / FAN_IN), num_levels + 1
    into_sums = num_levels * FAN_IN + level
    num_more = 1 if way == "sharded" else num_levels
    seconds = into_sums * num_bytes / num_parts / rates.bytes_per_second
    return rates.step_seconds * (1 + num_more / 2) + seconds


def capacities(
    runtime: RuntimeOptions, options: ScaleOptions, tell: Callable[[str], None]
) -> list[Capacity]:
    """Measure every combination; those of one number of workers share their processes.

    Args:
        runtime: whose cluster is used; the number of workers and the way are of `options`.
        options: what is measured.
        tell: gets a line for each number of workers.
    """
    found: list[Capacity] = []
    with connected(runtime):
        parts = {"sharded": parts_of(len(nodes_for_workers()))}
        for num_workers in sorted({1, *options.workers}):
            for way in options.ways if num_workers > 1 else ("flat",):
                tell(f"{num_workers} worker{'s' * (num_workers > 1)}, {way}")
                with _started(runtime, num_workers, way) as running:
                    for mb in options.megabytes:
                        row = Capacity(num_workers, _bytes(mb), way, parts.get(way, 1), 0, 0.0, 0.0)
                        found.append(_measured(running, row, options.seconds))
    rates = _rates([each for each in found if each.num_workers == 1])
    return [
        dataclasses.replace(
            each,
            model_seconds=predicted(
                rates, each.num_workers, each.num_bytes, each.way, each.num_parts
            ),
        )
        for each in found
        if each.num_workers in options.workers
    ]


def _started(runtime: RuntimeOptions, num_workers: int, way: Way) -> Runtime:
    asked = dataclasses.replace(
        runtime,
        name="ray",
        num_workers=num_workers,
        cpus_per_worker=_SHARE,
        gpus_per_worker=0,
        min_workers=None,
        mode="sync",
        reduce=way,
    )
    return make_runtime(asked, IdleWorkers(), SumServers(), "cpu", num_workers)


def _bytes(megabytes: float) -> int:
    return 4 * max(1, round(megabytes * 1e6 / 4))


def _measured(running: Runtime, row: Capacity, seconds: float) -> Capacity:
    num_workers = row.num_workers
    running.load(ServerState(0, {_VECTOR: np.zeros(row.num_bytes // 4, np.float32)}))
    started, step = 0.0, 0
    while step < _WARMUP + _LEAST or time.perf_counter() - started < seconds:
        if step == _WARMUP:
            started = time.perf_counter()
        running.step(step, _blocks(step, num_workers), _blocks(step + 1, num_workers))
        step += 1
    spent = time.perf_counter() - started
    return dataclasses.replace(row, num_steps=step - _WARMUP, seconds=spent)


def _blocks(step: int, num_workers: int) -> list[Block]:
    return blocks_of("train", step, num_workers, 1)


def _rates(alone: Sequence[Capacity]) -> Rates:
    """Of the smallest and the largest vector of one worker."""
    small = min(alone, key=lambda each: each.num_bytes)
    large = max(alone, key=lambda each: each.num_bytes)
    step = 1 / small.steps_per_second
    more = 1 / large.steps_per_second - step
    rate = (large.num_bytes - small.num_bytes) / more if more > 0 else math.inf
    return Rates(step, rate)


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
