"""The training loop: steps, evaluations, checkpoints, in an order that resuming can not change.

It knows what a step is and nothing of where it is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from dmeta.runs.checkpoint import Checkpoint, CheckpointError, checkpoint_name, steps_in
from dmeta.runs.checkpoint_writer import CheckpointWriter, GetState
from dmeta.runs.metrics import Observer, Row
from dmeta.runs.progress import Progress
from dmeta.runs.storage import Storage
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.protocol import Block, Runtime, StepReport
from dmeta.tasks.source import Split
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import Evaluation, ranked, summarize, summarize_ensemble
from dmeta.training.interrupts import Asked, Listening, Stopped, no_interrupts
from dmeta.training.rejections import rejection_line, rejection_of
from dmeta.training.setup import Run

_LOG = logging.getLogger(__name__)

_MAX_TOLD = 10  # rejected steps that are warned of; all of them are in metrics.jsonl


OnValidated: TypeAlias = Callable[[Evaluation], None]
"""What is done with an evaluation on validation tasks."""


class TrainingStopped(RuntimeError):
    """Training ended before its last step; the message says why and what is kept."""


def restore(runtime: Runtime, checkpoint: Checkpoint) -> None:
    """Let the runtime go on from a checkpoint.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    try:
        runtime.load(checkpoint.state)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.where} must be of this run's model, got another: {error}; "
            "choose the settings it was trained with"
        ) from None


def train_steps(
    run: Run,
    runtime: Runtime,
    storage: Storage,
    start: Progress,
    observers: Sequence[Observer],
    listening: Listening = no_interrupts,
    on_validated: OnValidated | None = None,
) -> Progress:
    """Take the outer steps from `start` to the end of the run; checkpoints go to `storage`.

    Args:
        run: what to train.
        runtime: who computes; at `start`.
        storage: of the checkpoints.
        start: what was done before.
        observers: told of the progress.
        listening: hears whoever wants the steps to stop.
        on_validated: waited for after each validation, whose step has a checkpoint by then.

    Raises:
        TrainingStopped: too many steps in a row had no finite gradient.
        Stopped: somebody asked for it; the last step is kept.
        OSError: the checkpoint of the last step can not be written.
    """
    with listening() as asked, CheckpointWriter(storage, run.config.checkpoint.keep) as writer:
        return _Loop(run, runtime, storage, writer, start, observers).run(asked, on_validated)


def evaluate_tasks(
    run: Run, runtime: Runtime, split: Split, num_tasks: int, step: int
) -> Evaluation:
    """Evaluate the runtime's current meta-parameters on `num_tasks` tasks of `split`."""
    blocks = blocks_of(split, 0, num_tasks, run.config.compute.block_size)
    return summarize(runtime.evaluate(blocks), split, step, run.source.kind)


def evaluate_ensemble(
    run: Run,
    runtime: Runtime,
    split: Split,
    num_tasks: int,
    checkpoints: Sequence[Callable[[], Checkpoint]],
) -> Evaluation:
    """Evaluate the average prediction of the models of several checkpoints.

    Args:
        run: what was trained.
        runtime: who computes; is left at the last of the checkpoints.
        split: classes the tasks are drawn from.
        num_tasks: how many.
        checkpoints: each read when its turn comes; the best first.
    """
    size = run.config.compute.block_size
    blocks = blocks_of(split, 0, num_tasks, size, with_predictions=True)
    models, steps = [], []
    for read in checkpoints:
        checkpoint = read()
        restore(runtime, checkpoint)
        models.append(runtime.evaluate(blocks))
        steps.append(checkpoint.step)
    return summarize_ensemble(models, split, steps[0], run.source.kind)


class _Loop:
    def __init__(
        self,
        run: Run,
        runtime: Runtime,
        storage: Storage,
        writer: CheckpointWriter,
        start: Progress,
        observers: Sequence[Observer],
    ) -> None:
        self._run, self._runtime, self._observers = run, runtime, observers
        self._storage, self._writer = storage, writer
        self._progress = start
        self._seconds_before = start.seconds
        self._began = self._row_began = time.perf_counter()
        self._since_row: list[StepReport] = []

    def run(self, asked: Asked, on_validated: OnValidated | None) -> Progress:
        config = self._run.config
        while self._progress.step < config.steps:
            best = self._progress.best
            try:
                evaluation = self._step_told_and_validated()
            except TrainingStopped:
                raise
            except Exception:
                self._save_what_is_there()
                raise
            stop, last = asked(), self._progress.step == config.steps
            awaited = evaluation if on_validated is not None else None
            self._keep(
                at_once=last or stop is not None or awaited is not None,
                improved=self._progress.best != best,
            )
            if on_validated is not None and awaited is not None:
                on_validated(awaited)
            if stop is not None and not last:
                raise Stopped(self._progress.step, stop)
        return self._progress

    def _keep(self, *, at_once: bool, improved: bool) -> None:
        """Write a checkpoint, if one is due."""
        due = _due(self._progress.step, self._run.config.checkpoint.every)
        if at_once:
            self._save(self._writer.write, self._runtime.state())
        # One that is due while another is being written is left out, but for the best ones: no step
        # waits for a slow storage.
        elif improved or (due and not self._writer.busy):
            self._save(self._writer.begin, self._runtime.state())

    def _step_told_and_validated(self) -> Evaluation | None:
        """Take a step, and what is due after it."""
        self._step()
        config, step = self._run.config, self._progress.step
        if step % config.log_every == 0 or step == config.steps:
            self._log()
        return self._validate() if is_validated(step, config) else None

    def _step(self) -> None:
        config, step = self._run.config, self._progress.step
        upcoming = self._blocks(step + 1) if step + 1 < config.steps else []
        report = self._runtime.step(step, self._blocks(step), upcoming)
        self._since_row.append(report)
        dropped = not report.applied.applied
        self._advance(
            step=step + 1,
            rejected=self._progress.rejected + dropped,
            rejected_in_a_row=self._progress.rejected_in_a_row + 1 if dropped else 0,
            retried_blocks=self._progress.retried_blocks + report.num_retries,
            copied_blocks=self._progress.copied_blocks + report.num_copies,
            stale_blocks=self._progress.stale_blocks + report.num_too_stale,
            dropped_blocks=self._progress.dropped_blocks + report.num_dropped,
        )
        if dropped:
            self._tell_rejection(report)
        if self._progress.rejected_in_a_row >= config.max_rejected:
            self._log()
            self._writer.finish()
            kept = steps_in(self._storage)
            where = self._storage.locate(checkpoint_name(kept[-1])) if kept else "none yet"
            raise TrainingStopped(
                f"{config.max_rejected} steps in a row had a meta-gradient that is not finite, or "
                f"above outer.reject_norm (the last is step {step}); none was applied. "
                f"The last good checkpoint: {where}. Lower algorithm.inner_lr or outer.lr, or set "
                "outer.clip_norm; max_rejected sets how many are too many"
            )
        for observer in self._observers:
            observer.on_step(step + 1, report)

    def _tell_rejection(self, report: StepReport) -> None:
        row = rejection_of(report, self._run.config)
        self._tell(row)
        told = _LOG.debug if self._progress.rejected > _MAX_TOLD else _LOG.warning
        config = self._run.config
        can_be_replayed = config.runtime.mode == "sync"
        line = rejection_line(row, config.run_dir, can_be_replayed=can_be_replayed)
        block = row["blocks"][0]
        where = {"step": block["step"], "block": block["index"]}
        told("%s", line, extra=where)

    def _blocks(self, step: int) -> list[Block]:
        config = self._run.config
        return blocks_of("train", step, config.meta_batch_size, config.compute.block_size)

    def _log(self) -> None:
        if not self._since_row:
            return
        now = time.perf_counter()
        good = [r for r in self._since_row if r.applied.applied]
        num_tasks = sum(b.block.num_slots for r in good for b in r.blocks)
        names = good[0].blocks[0].sums if good else {}
        last = self._since_row[-1].applied
        row = {
            "event": "train",
            "step": self._progress.step,
            **{n: sum(b.sums[n] for r in good for b in r.blocks) / num_tasks for n in names},
            "gradient_norm": last.gradient_norm if last.applied else None,
            "lr": last.lr,
            "rejected": self._progress.rejected,
            "retried_blocks": self._progress.retried_blocks,
            "copied_blocks": self._progress.copied_blocks,
            **self._staleness(),
            "tasks_per_second": self._run.config.meta_batch_size
            * len(self._since_row)
            / (now - self._row_began),
            "seconds": self._elapsed(),
        }
        self._since_row, self._row_began = [], now
        self._tell(row)

    def _staleness(self) -> dict[str, object]:
        """How far behind the gradients were since the last row, if they may be at all."""
        found = Counter(s for report in self._since_row for s in report.staleness)
        if not found:
            return {}
        return {
            "staleness": sum(s * count for s, count in found.items()) / found.total(),
            "staleness_counts": [found[s] for s in range(max(found) + 1)],
            "stale_blocks": self._progress.stale_blocks,
            "dropped_blocks": self._progress.dropped_blocks,
        }

    def _validate(self) -> Evaluation:
        """Evaluate on validation tasks, and see whether it is among the best so far."""
        step = self._progress.step
        result = evaluate_tasks(
            self._run, self._runtime, "val", self._run.config.eval.val_tasks, step
        )
        best = ranked(self._progress.best, result, self._run.config.eval.num_best)
        self._advance(best=best)
        self._tell(
            {
                "event": "val",
                "step": step,
                "num_tasks": result.num_tasks,
                result.metric: result.value,
                "ci95": result.ci95,
                f"{result.metric}_before": result.transductive.mean[0],
                f"{result.metric}_non_transductive": result.non_transductive.mean[-1],
                "num_non_finite": result.num_non_finite,
                "best_step": self._progress.best_step,
                "seconds": self._elapsed(),
            }
        )
        self._row_began = time.perf_counter()
        return result

    def _save(
        self,
        write: Callable[[GetState, Mapping[str, Any], Collection[int]], None],
        state: GetState,
    ) -> None:
        self._advance(seconds=self._elapsed())
        best = [step for step, _ in self._progress.best]
        write(state, dataclasses.asdict(self._progress), best)

    def _save_what_is_there(self) -> None:
        """Keep the steps since the last checkpoint, if the server still has them and answers."""
        with contextlib.suppress(Exception):  # the one that ends the run is the one to be told
            state = self._runtime.state()()
            if state.step == self._progress.step > 0:
                self._save(self._writer.write, lambda: state)

    def _elapsed(self) -> float:
        return self._seconds_before + time.perf_counter() - self._began

    def _advance(self, **changes: object) -> None:
        self._progress = dataclasses.replace(self._progress, **changes)  # type: ignore[arg-type]

    def _tell(self, row: Row) -> None:
        for observer in self._observers:
            observer.on_row(row)


def is_validated(step: int, config: RunConfig) -> bool:
    """Whether a step is followed by a validation: every eval.every-th one, and the last."""
    every = config.eval.every
    return _due(step, every) or (every > 0 and step == config.steps)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
