"""Benchmark of the parameter server: steps per second, with workers that compute nothing.

What is left of a step is messages, copies and additions: the most that any run can do with so many
workers and so large a model, and from where on the server is the bottleneck. Knows no command line.

Letters: W workers, S bytes of a vector.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from pydantic import PositiveFloat, PositiveInt

from dmeta.bench.idle import IdleWorkers, SumServers, idle_state
from dmeta.options import check_fields
from dmeta.runtime import RuntimeOptions, make_runtime
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.cluster.connect import connected, nodes_for_workers
from dmeta.runtime.messages import Block
from dmeta.runtime.protocol import Runtime
from dmeta.runtime.ray.gather import parts_of
from dmeta.runtime.reduction import FAN_IN

Way: TypeAlias = Literal["flat", "tree", "sharded"]
WAYS: tuple[Way, ...] = get_args(Way)

_WARMUP, _LEAST = 2, 3  # steps
_SIZES_OF_THE_MODEL = (0.05, 4.0)  # MB, besides those that are asked for
_SHARE = 0.01  # of a CPU: workers that compute nothing need no room


@dataclass(frozen=True)
class ScaleOptions:
    """What is measured.

    Attributes:
        workers: numbers of workers, in turn.
        megabytes: sizes of the vector of meta-parameters (1e6 bytes), in turn: 4 bytes a number.
        ways: of the gradients to the server (``runtime.reduce``), in turn.
        seconds: of steps, for each.
        out: folder for the table (JSON) and the plot; None: a new one under ./runs.
    """

    workers: tuple[PositiveInt, ...] = (1, 2, 4, 8)
    megabytes: tuple[PositiveFloat, ...] = (0.05, 0.5, 4.0)
    ways: tuple[Way, ...] = ("flat", "tree", "sharded")
    seconds: PositiveFloat = 2.0
    out: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        check_fields(self, "bench")
        for key in ("workers", "megabytes", "ways"):
            if not getattr(self, key):
                raise ValueError(f"bench.{key} must name at least one, got none; name one")


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
class StepRates:
    """What the model is made of, measured with one worker.

    Attributes:
        step_seconds: of a step of the smallest vector: its messages.
        bytes_per_second: of a gradient from a worker into a sum.
    """

    step_seconds: float
    bytes_per_second: float

    @classmethod
    def of(cls, step_seconds: Mapping[int, float]) -> StepRates:
        """Of the smallest and the largest vector: seconds of a step by bytes, of two or more."""
        small, large = min(step_seconds), max(step_seconds)
        more = step_seconds[large] - step_seconds[small]
        return cls(step_seconds[small], (large - small) / more if more > 0 else math.inf)


def predicted(
    rates: StepRates, num_workers: int, num_bytes: int, way: Way, num_parts: int = 1
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
        tell("1 worker, for the model")
        with _started(runtime, 1, "flat") as running:
            rates = _rates(running, options)
        for num_workers in sorted(set(options.workers)):
            for way in options.ways if num_workers > 1 else ("flat",):
                tell(f"{num_workers} worker{'s' * (num_workers > 1)}, {way}")
                with _started(runtime, num_workers, way) as running:
                    for size in map(_bytes, options.megabytes):
                        num_parts = parts.get(way, 1)
                        num_steps, seconds = _measured(running, num_workers, size, options.seconds)
                        model = predicted(rates, num_workers, size, way, num_parts)
                        found.append(
                            Capacity(num_workers, size, way, num_parts, num_steps, seconds, model)
                        )
    return found


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


def _measured(
    running: Runtime, num_workers: int, num_bytes: int, seconds: float
) -> tuple[int, float]:
    """So many steps, in so many seconds."""
    running.load(idle_state(num_bytes))
    started, step = 0.0, 0
    while step < _WARMUP + _LEAST or time.perf_counter() - started < seconds:
        if step == _WARMUP:
            started = time.perf_counter()
        running.step(step, _blocks(step, num_workers), _blocks(step + 1, num_workers))
        step += 1
    return step - _WARMUP, time.perf_counter() - started


def _blocks(step: int, num_workers: int) -> list[Block]:
    return blocks_of("train", step, num_workers, 1)


def _rates(alone: Runtime, options: ScaleOptions) -> StepRates:
    """Of one worker's smallest and largest vectors, which are never of the same size."""
    sizes = [_bytes(megabytes) for megabytes in (*_SIZES_OF_THE_MODEL, *options.megabytes)]
    step_seconds = {}
    for size in (min(sizes), max(sizes)):
        num_steps, seconds = _measured(alone, 1, size, options.seconds)
        step_seconds[size] = seconds / num_steps
    return StepRates.of(step_seconds)
