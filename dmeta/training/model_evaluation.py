"""Evaluates the model in a runtime, one of a checkpoint, or an ensemble of several."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from dmeta.runs.checkpoint import Checkpoint, CheckpointError, read_checkpoint, steps_in
from dmeta.runs.progress import Progress
from dmeta.runs.storage import Storage
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.protocol import Runtime
from dmeta.tasks.source import Split
from dmeta.training.evaluation import (
    Evaluation,
    as_plain,
    non_finite_line,
    undefined_lines,
)
from dmeta.training.setup import Run
from dmeta.training.summaries import summarize, summarize_ensemble

_LOG = logging.getLogger(__name__)


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


class FinalEvaluation(NamedTuple):
    """Of a finished training.

    Attributes:
        test: on test tasks of the run's own.
        others: name of tasks of another source (``eval.task``) -> on its test tasks.
    """

    test: Evaluation
    others: Mapping[str, Evaluation]

    @property
    def named(self) -> dict[str, Evaluation]:
        """What messages call the tasks, with an end of its own -> all of them."""
        return {"": self.test, **{f"{name}: ": each for name, each in self.others.items()}}


def evaluate_tasks(
    run: Run,
    runtime: Runtime,
    split: Split,
    num_tasks: int,
    step: int,
    source: str | None = None,
) -> Evaluation:
    """Evaluate the runtime's current meta-parameters on `num_tasks` tasks of `split`.

    Args:
        run: what was trained.
        runtime: who computes.
        split: classes the tasks are drawn from.
        num_tasks: how many.
        step: of the meta-parameters.
        source: of the tasks, one of `Run.other_tasks`; None: the run's own.
    """
    blocks = blocks_of(split, 0, num_tasks, run.config.compute.block_size, source=source)
    return summarize(runtime.evaluate(blocks), split, step, run.metrics)


def evaluate_ensemble(
    run: Run,
    runtime: Runtime,
    split: Split,
    num_tasks: int,
    checkpoints: Sequence[Callable[[], Checkpoint]],
    source: str | None = None,
) -> Evaluation:
    """Evaluate the average prediction of the models of several checkpoints.

    Args:
        run: what was trained.
        runtime: who computes; is left at the last of the checkpoints.
        split: classes the tasks are drawn from.
        num_tasks: how many.
        checkpoints: each read when its turn comes; the best first.
        source: of the tasks, one of `Run.other_tasks`; None: the run's own.
    """
    size = run.config.compute.block_size
    blocks = blocks_of(split, 0, num_tasks, size, with_predictions=True, source=source)
    models, steps = [], []
    for read in checkpoints:
        checkpoint = read()
        restore(runtime, checkpoint)
        models.append(runtime.evaluate(blocks))
        steps.append(checkpoint.step)
    return summarize_ensemble(models, split, steps[0], run.source.kind, run.metrics)


def final_evaluation(
    run: Run,
    storage: Storage,
    runtime: Runtime,
    progress: Progress,
    tell: Callable[[str], None],
) -> FinalEvaluation:
    """Evaluate the last step's meta-parameters, the best ones, or an ensemble, on test tasks.

    Args:
        run: what was trained.
        storage: of its checkpoints.
        runtime: who computes; at the last step.
        progress: of the training.
        tell: called with what comes next.
    """
    options, step = run.config.eval, progress.step
    best = best_checkpoints(storage, progress)
    if options.checkpoint != "last" and len(best) < len(progress.best):
        _LOG.warning(
            "%d of the %d best checkpoints could not be written; the final evaluation is without",
            len(progress.best) - len(best),
            len(progress.best),
        )
    if options.checkpoint == "best" and best:
        checkpoint = best[0]()
        step = checkpoint.step
        restore(runtime, checkpoint)

    def evaluated(source: str | None = None) -> Evaluation:
        of = "" if source is None else f" of {source}"
        tell(f"evaluating on {options.num_tasks} test tasks{of}")
        if options.checkpoint == "ensemble" and best:
            return evaluate_ensemble(run, runtime, "test", options.num_tasks, best, source)
        return evaluate_tasks(run, runtime, "test", options.num_tasks, step, source)

    return FinalEvaluation(evaluated(), {name: evaluated(name) for name in run.other_tasks})


def best_checkpoints(storage: Storage, progress: Progress) -> list[Callable[[], Checkpoint]]:
    """Ways to read the checkpoints that are best on validation tasks, the best first.

    Those that are there: on a disk that was full, one may be missing.
    """
    there = steps_in(storage)
    steps = [step for step, _ in progress.best if step in there]
    return [functools.partial(read_checkpoint, storage, step) for step in steps]


def warn_of_left_out(evaluation: Evaluation, name: str = "") -> None:
    """Log a warning if predictions were not finite, or a metric not defined for some tasks.

    Args:
        evaluation: on some tasks.
        name: what to call them, in front.
    """
    plain = as_plain(evaluation)
    if line := non_finite_line(plain, evaluation.declared):
        _LOG.warning("%s%s", name, line)
    for line in undefined_lines(plain):
        _LOG.warning("%s%s", name, line)
