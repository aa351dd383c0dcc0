"""The training loop: steps, evaluations and checkpoints, in an order that resuming keeps.

It knows what a step is and nothing of where it is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from dmeta.runs.checkpoint import checkpoint_name, steps_in
from dmeta.runs.checkpoint_writer import CheckpointWriter, GetState
from dmeta.runs.metrics import MetricsWriter, Observer, Row
from dmeta.runs.progress import Progress
from dmeta.runs.storage import Storage
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.messages import Block, StepReport
from dmeta.runtime.protocol import Runtime
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import Evaluation, ranked
from dmeta.training.interrupts import Stopped
from dmeta.training.metric_rows import train_row, val_row
from dmeta.training.model_evaluation import evaluate_tasks
from dmeta.training.nonfatal import guarded
from dmeta.training.rejections import rejection_line, rejection_of
from dmeta.training.resume import StartingPoint
from dmeta.training.session import Session
from dmeta.training.setup import Run

_LOG = logging.getLogger(__name__)

_MAX_WARNED = 10  # rejected steps that are warned of; all of them are in metrics.jsonl

OnValidated: TypeAlias = Callable[[Evaluation], None]
"""What is done with an evaluation on validation tasks."""


class TrainingStopped(RuntimeError):
    """Training ended before its last step; the message says why and what is kept."""


def train_steps(
    session: Session,
    start: StartingPoint,
    runtime: Runtime,
    on_validated: OnValidated | None = None,
) -> Progress:
    """Take the outer steps from `start` to the end of the run, with metrics and checkpoints.

    Args:
        session: what to train, and with which observers.
        start: what was done before, and where the checkpoints go.
        runtime: who computes; at `start`.
        on_validated: waited for after each validation, whose step has a checkpoint by then.

    Raises:
        TrainingStopped: too many steps in a row had no finite gradient.
        Stopped: somebody asked for it; the last step is kept.
        OSError: the checkpoint of the last step cannot be written.
    """
    config, first = session.run.config, start.progress.step
    with (
        contextlib.closing(MetricsWriter(session.run_dir, first)) as metrics,
        session.listening() as asked,
        CheckpointWriter(start.storage, config.checkpoint.keep) as writer,
    ):
        loop = _Loop(session.run, runtime, start, writer, guarded([metrics, *session.observers]))
        for step in range(first, config.steps):
            best = loop.progress.best
            with loop.saved_on_error():
                report = runtime.step(step, _blocks(config, step), _blocks(config, step + 1))
                evaluation = loop.record(report)
            stop, last = asked(), step + 1 == config.steps
            awaited = evaluation if on_validated is not None else None
            loop.keep(
                at_once=last or stop is not None or awaited is not None,
                improved=loop.progress.best != best,
            )
            if on_validated is not None and awaited is not None:
                on_validated(awaited)
            if stop is not None and not last:
                raise Stopped(step + 1, stop)
        return loop.progress


class _Loop:
    """What a training has done so far, and what is due after a step."""

    def __init__(
        self,
        run: Run,
        runtime: Runtime,
        start: StartingPoint,
        writer: CheckpointWriter,
        observers: Sequence[Observer],
    ) -> None:
        self.progress = start.progress
        self._run, self._runtime, self._observers = run, runtime, observers
        self._storage, self._writer = start.storage, writer
        self._seconds_before = start.progress.seconds
        self._began = self._row_began = time.perf_counter()
        self._since_row: list[StepReport] = []

    def record(self, report: StepReport) -> Evaluation | None:
        """Count a step, pass it to the observers, and validate if that is due."""
        config = self._run.config
        self.progress = self.progress.after(report)
        step = self.progress.step
        self._since_row.append(report)
        if not report.applied.applied:
            self._tell_rejection(report)
        if self.progress.rejected_in_a_row >= config.max_rejected:
            self._tell_train_row()
            self._writer.finish()
            raise TrainingStopped(_rejected_too_often(config, step, self._storage))
        for observer in self._observers:
            observer.on_step(step, report)
        if step % config.log_every == 0 or step == config.steps:
            self._tell_train_row()
        return self._validate() if is_validated(step, config) else None

    def keep(self, *, at_once: bool, improved: bool) -> None:
        """Write a checkpoint, if one is due."""
        due = _due(self.progress.step, self._run.config.checkpoint.every)
        if at_once:
            self._save(self._writer.write, self._runtime.state())
        # One that is due while another is being written is left out, but for the best ones: no step
        # waits for a slow storage.
        elif improved or (due and not self._writer.busy):
            self._save(self._writer.begin, self._runtime.state())

    @contextlib.contextmanager
    def saved_on_error(self) -> Iterator[None]:
        """Keep the steps since the last checkpoint, if the server still has them and answers."""
        try:
            yield
        except TrainingStopped:
            raise
        except Exception:
            with contextlib.suppress(Exception):  # report the error that ended the run
                state = self._runtime.state()()
                if state.step == self.progress.step > 0:
                    self._save(self._writer.write, lambda: state)
            raise

    def _validate(self) -> Evaluation:
        """Evaluate on validation tasks, and see whether it is among the best so far."""
        options = self._run.config.eval
        evaluation = evaluate_tasks(
            self._run, self._runtime, "val", options.val_tasks, self.progress.step
        )
        best = ranked(self.progress.best, evaluation, options.num_best)
        self.progress = dataclasses.replace(self.progress, best=best)
        self._tell(val_row(self.progress, evaluation, self._elapsed()))
        self._row_began = time.perf_counter()
        return evaluation

    def _tell_train_row(self) -> None:
        num_tasks, now = (
            self._run.config.meta_batch_size * len(self._since_row),
            time.perf_counter(),
        )
        speed = num_tasks / (now - self._row_began)
        row = train_row(self.progress, self._since_row, speed, self._elapsed())
        self._since_row, self._row_began = [], now
        self._tell(row)

    def _tell_rejection(self, report: StepReport) -> None:
        config = self._run.config
        row = rejection_of(report, config)
        self._tell(row)
        log = _LOG.debug if self.progress.rejected > _MAX_WARNED else _LOG.warning
        can_be_replayed = config.runtime.mode == "sync"
        line = rejection_line(row, config.run_dir, can_be_replayed=can_be_replayed)
        block = row["blocks"][0]
        log("%s", line, extra={"step": block["step"], "block": block["index"]})

    def _tell(self, row: Row) -> None:
        for observer in self._observers:
            observer.on_row(row)

    def _save(
        self,
        write: Callable[[GetState, Mapping[str, Any], Collection[int]], None],
        state: GetState,
    ) -> None:
        self.progress = dataclasses.replace(self.progress, seconds=self._elapsed())
        best = [step for step, _ in self.progress.best]
        write(state, dataclasses.asdict(self.progress), best)

    def _elapsed(self) -> float:
        return self._seconds_before + time.perf_counter() - self._began


def _blocks(config: RunConfig, step: int) -> list[Block]:
    """Of a step of the run; none after its last."""
    if step >= config.steps:
        return []
    return blocks_of("train", step, config.meta_batch_size, config.compute.block_size)


def _rejected_too_often(config: RunConfig, step: int, storage: Storage) -> str:
    kept = steps_in(storage)
    where = storage.locate(checkpoint_name(kept[-1])) if kept else "none yet"
    return (
        f"{config.max_rejected} steps in a row had a meta-gradient that is not finite, or above "
        f"outer.reject_norm (the last is step {step - 1}); none was applied. The last good "
        f"checkpoint: {where}. Lower algorithm.inner_lr or outer.lr, or set outer.clip_norm; "
        "max_rejected sets how many are too many"
    )


def is_validated(step: int, config: RunConfig) -> bool:
    """Whether a step is followed by a validation: every eval.every-th one, and the last."""
    every = config.validation_every
    return _due(step, every) or (every > 0 and step == config.steps)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
