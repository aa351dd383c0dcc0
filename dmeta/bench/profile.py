"""Profile of an outer step: the run's own training, timed part by part.

Measured on real steps of a run, in the run's own runtime. Knows no command line.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt

from dmeta.options import check_fields
from dmeta.runs.checkpoint import open_checkpoints
from dmeta.runs.metrics import Row
from dmeta.runs.progress import fresh
from dmeta.runtime.messages import StepReport
from dmeta.runtime.protocol import Runtime
from dmeta.training.loop import train_steps
from dmeta.training.resume import StartingPoint
from dmeta.training.session import Session
from dmeta.training.setup import Run
from dmeta.training.work.worker import BLOCK_PARTS

OUTER, RUNTIME, LOOP = "outer", "runtime", "loop"

ALL_PARTS = (*BLOCK_PARTS, OUTER, RUNTIME, LOOP)
"""Of a step: those of a block (`dmeta.training.work.worker.BLOCK_PARTS`); the outer step; messages,
copies and waiting; the training loop with its metrics."""

MATHEMATICS = "mathematics"


@dataclass(frozen=True)
class ProfileOptions:
    """How much is measured.

    Attributes:
        steps: outer steps that are measured.
        warmup: outer steps before them.
        out: folder for the table (JSON) and the plot; None: a new one under ./runs.
    """

    steps: PositiveInt = 100
    warmup: PositiveInt = 20
    out: str | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "bench")


@dataclass(frozen=True)
class Profile:
    """What was found.

    Attributes:
        runtime: ``local`` or ``ray``.
        num_workers: that computed blocks.
        device: ``cpu`` or ``cuda``.
        num_steps: measured steps.
        num_tasks: of one step.
        seconds: of one step, the mean.
        parts: each of `ALL_PARTS` -> seconds of one step, which together are `seconds`. What W
            workers do at the same time counts as a W-th of its sum, so that a worker's waiting is
            part of `RUNTIME`.
    """

    runtime: str
    num_workers: int
    device: str
    num_steps: int
    num_tasks: int
    seconds: float
    parts: Mapping[str, float]

    @property
    def tasks_per_second(self) -> float:
        """Over all measured steps."""
        return self.num_tasks / self.seconds

    def share(self, part: str) -> float:
        """Of a step, in [0, 1]."""
        return self.parts[part] / self.seconds

    @property
    def share_around(self) -> float:
        """Everything but the mathematics, in [0, 1]."""
        return 1 - self.share(MATHEMATICS)


def profile(run: Run, open_runtime: Callable[[Run], Runtime], options: ProfileOptions) -> Profile:
    """Train for a few steps and account for their time.

    Without validation and checkpoints, which are no part of a step; metrics are written, to a
    folder that is removed again.

    Args:
        run: the run.
        open_runtime: starts its runtime.
        options: how much to measure.
    """
    config = run.config
    config = dataclasses.replace(
        config,
        steps=options.warmup + options.steps,
        eval=dataclasses.replace(config.eval, every=0),
        checkpoint=dataclasses.replace(config.checkpoint, every=0, location=None),
    )
    run, watch = dataclasses.replace(run, config=config), _Watch()
    with tempfile.TemporaryDirectory() as folder, open_runtime(run) as runtime:
        info = runtime.info
        storage = open_checkpoints(Path(folder), None)
        session = Session(run, Path(folder), open_runtime, [watch])
        train_steps(session, StartingPoint(fresh(config.fingerprint()), storage), runtime)
    seconds = (watch.ends[-1] - watch.ends[options.warmup - 1]) / options.steps
    parts = _mean_parts(watch.reports[options.warmup :], info.num_workers, seconds)
    return Profile(
        runtime=info.name,
        num_workers=info.num_workers,
        device=info.device,
        num_steps=options.steps,
        num_tasks=config.meta_batch_size,
        seconds=seconds,
        parts=parts,
    )


class _Watch:
    """Keeps when every step ended, and what was said of it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.reports: list[StepReport] = []

    def on_row(self, row: Row) -> None:
        """Nothing: the writer is there for what it costs."""

    def on_step(self, step: int, report: StepReport) -> None:  # noqa: ARG002 - they come in order
        self.ends.append(time.perf_counter())
        self.reports.append(report)

    def on_phase(self, what: str) -> None:
        """Nothing: there is but one."""


def _mean_parts(reports: list[StepReport], num_workers: int, seconds: float) -> dict[str, float]:
    count = len(reports)
    parts = {
        part: sum(block.part_seconds[part] for report in reports for block in report.blocks)
        / (count * num_workers)
        for part in BLOCK_PARTS
    }
    parts[OUTER] = sum(report.applied.seconds for report in reports) / count
    in_runtime = sum(report.seconds for report in reports) / count
    parts[RUNTIME] = in_runtime - sum(parts.values())
    parts[LOOP] = seconds - in_runtime
    return parts
