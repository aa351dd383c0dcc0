"""What a slow worker costs: ``python -m tests.runtime.stragglers steps|goal``.

Four workers compute the sinusoid; each block takes a fixed time besides, and on one worker ten
times that. Prints tables for docs/scale.md. Not part of the tests: minutes, and it reads the clock.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from dmeta.cli.settings.hydra_app import compose
from dmeta.runtime import RuntimeOptions, make_runtime
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.messages import (
    Block,
    BlockReport,
    GradientResult,
    Vector,
)
from dmeta.runtime.protocol import Runtime, Worker, WorkerFactory
from dmeta.training.config import run_config
from dmeta.training.model_evaluation import evaluate_tasks
from dmeta.training.setup import Run, prepare

BLOCK_S, FACTOR, STEPS = 0.05, 10.0, 60
GOAL, EVERY, MOST = 0.8, 20, 1200
SETTINGS = (
    *("task=sinusoid", "runtime=ray", "compute.plan=vmap", "compute.block_size=4"),
    *("meta_batch_size=16", f"steps={MOST}", "algorithm.inner_lr=0.03", "outer.lr=0.003"),
    *("algorithm.inner_steps=3", "runtime.num_workers=4", "runtime.cpus_per_worker=0.5"),
)


@dataclass(frozen=True)
class Slowed:
    """The work, and a time that each block takes besides, longer on the first worker built."""

    work: WorkerFactory
    folder: str
    factor: float

    def build(self, device: str) -> Worker:
        try:
            os.close(os.open(Path(self.folder, "slow"), os.O_CREAT | os.O_EXCL))
            seconds = BLOCK_S * self.factor
        except FileExistsError:
            seconds = BLOCK_S
        return Waiting(self.work.build(device), seconds)


@dataclass(frozen=True)
class Waiting:
    """A worker that waits."""

    worker: Worker
    seconds: float

    def gradient(self, vector: Vector, block: Block) -> GradientResult:
        time.sleep(self.seconds)
        return self.worker.gradient(vector, block)

    def evaluate_tasks(self, vector: Vector, block: Block) -> BlockReport:
        return self.worker.evaluate(vector, block)


@contextlib.contextmanager
def running(run: Run, factor: float, **changes: object) -> Iterator[Runtime]:
    """The run's workers, one of them so many times as slow."""
    options = RuntimeOptions(**{**vars(run.config.runtime), **changes})
    with tempfile.TemporaryDirectory() as folder:
        work = Slowed(run.work, folder, factor)
        with make_runtime(options, work, run.outer, "cpu", run.config.num_blocks) as runtime:
            yield runtime


def blocks(run: Run, step: int) -> list[Block]:
    config = run.config
    return blocks_of("train", step, config.meta_batch_size, config.compute.block_size)


def step_times(run: Run) -> None:
    print("| one worker of four 10 times slower | s a step | blocks done twice | too stale |")
    print("| --- | --- | --- | --- |")
    for name, factor, again, changes in (
        ("no slow worker", 1.0, True, {}),
        ("synchronous, nothing done twice", FACTOR, False, {}),
        ("synchronous", FACTOR, True, {}),
        ("asynchronous", FACTOR, True, {"mode": "async"}),
    ):
        late = contextlib.nullcontext() if again else never_late()
        with late, running(run, factor, **changes) as runtime:
            reports, began = [], 0.0
            for step in range(10 + STEPS):
                began = time.perf_counter() if step == 10 else began
                reports.append(runtime.step(step, blocks(run, step), blocks(run, step + 1)))
            seconds = (time.perf_counter() - began) / STEPS
            copies = sum(report.num_copies for report in reports[10:])
            stale = sum(report.num_too_stale for report in reports[10:])
            print(f"| {name} | {seconds:.3f} | {copies} | {stale} |", flush=True)


def never_late() -> contextlib.AbstractContextManager[object]:
    """Nobody is called late."""
    return mock.patch("dmeta.runtime.ray.pace._LATE_FACTOR", float("inf"))


def to_the_goal(run: Run) -> None:
    print(f"| to a validation MSE of {GOAL} | steps | tasks | seconds | MSE | staleness |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, factor, changes in (
        ("synchronous, no slow worker", 1.0, {}),
        ("asynchronous, no slow worker", 1.0, {"mode": "async"}),
        ("synchronous, one slow", FACTOR, {}),
        ("asynchronous, one slow", FACTOR, {"mode": "async"}),
    ):
        with running(run, factor, **changes) as runtime:
            seconds, mse, ages = 0.0, float("inf"), []
            step = 0
            while step < MOST and mse > GOAL:
                began = time.perf_counter()
                for _ in range(EVERY):
                    report = runtime.step(step, blocks(run, step), blocks(run, step + 1))
                    ages += report.staleness
                    step += 1
                seconds += time.perf_counter() - began
                mse = evaluate_tasks(run, runtime, "val", 300, step).value
            mean = f"{sum(ages) / len(ages):.2f}, at most {max(ages)}" if ages else "0"
            tasks = step * run.config.meta_batch_size
            print(f"| {name} | {step} | {tasks} | {seconds:.1f} | {mse:.3f} | {mean} |", flush=True)


if __name__ == "__main__":
    made = prepare(run_config(compose("train", SETTINGS)))
    {"steps": step_times, "goal": to_the_goal}[sys.argv[1]](made)
