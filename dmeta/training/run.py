"""A whole run in its folder: start or resume, train, evaluate, write the results.

Knows the runtime only as something it is given a way to open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from dmeta.addresses import within
from dmeta.options import NamedOptions
from dmeta.runs.checkpoint import (
    Checkpoint,
    read_checkpoint,
    steps_in,
)
from dmeta.runs.layout import JOINT, RESULTS
from dmeta.runs.lock import only_one_in
from dmeta.runs.log import run_log, warnings_logged
from dmeta.runs.metrics import MetricsWriter, Observer
from dmeta.runs.progress import Progress
from dmeta.runs.remote_mirror import Mirror
from dmeta.runs.storage import Storage
from dmeta.runtime.protocol import Runtime
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import Evaluation, as_plain, non_finite_line
from dmeta.training.interrupts import Listening, no_interrupts
from dmeta.training.loop import OnValidated, evaluate_ensemble, evaluate_tasks, restore, train_steps
from dmeta.training.nonfatal import guarded, warned_of
from dmeta.training.parallelism import idle_line, mixed_line
from dmeta.training.results import Finished, Result, hardware, summary_of, write_json
from dmeta.training.resume import StartingPoint, starting_point, write_settings
from dmeta.training.setup import Run

_LOG = logging.getLogger(__name__)

OpenRuntime: TypeAlias = Callable[[Run], Runtime]
"""Starts a runtime for a run; a context manager."""

Draw: TypeAlias = Callable[[Run, Path, Evaluation, Run | None, Evaluation | None], None]
"""Draws a run: the run, its folder, its evaluation; the joint baseline and its evaluation."""


def run_session(
    run: Run,
    run_dir: Path,
    open_runtime: OpenRuntime,
    observers: Sequence[Observer],
    joint: Run | None = None,
    listening: Listening = no_interrupts,
    mirror: Mirror | None = None,
    joint_observers: Callable[[], Sequence[Observer]] = tuple,
    draw: Draw | None = None,
) -> Result:
    """Train, evaluate on test tasks, and write the results.

    Args:
        run: what to train.
        run_dir: where to write.
        open_runtime: starts the runtime.
        observers: called as the training progresses, besides the run's own metrics files; their
            exceptions, as those of the figures, are warnings.
        joint: the jointly pre-trained network to compare with.
        listening: notes requests to stop.
        mirror: copies `run_dir` elsewhere, before each checkpoint; None: it stays there.
        joint_observers: called when the training of `joint` begins, returns the observers of it.
        draw: draws the figures of the finished run.

    Raises:
        ValueError: another process trains in `run_dir`.
        TrainingStopped: too many steps in a row had no finite gradient.
        Stopped: somebody asked for it.
    """
    observers = guarded(observers)
    finished = train_in(run, run_dir, open_runtime, observers, listening, mirror)
    other = None
    if joint is not None:
        _tell(observers, "training the jointly pre-trained network to compare with")
        joint_dir = run_dir / JOINT
        joint = dataclasses.replace(joint, config=dataclasses.replace(joint.config, resume="auto"))
        other = train_in(joint, joint_dir, open_runtime, joint_observers(), listening, mirror)
    summary = summary_of(run, finished, other)
    write_json(run_dir / RESULTS, summary)
    baseline = None if other is None else other.test
    if draw is not None:
        _tell(observers, "drawing figures")
        with warnings_logged(run_dir, run.config.run_id), warned_of("figures"):
            draw(run, run_dir, finished.test, joint, baseline)
    return Result(
        run_dir=run_dir,
        test=finished.test,
        joint_baseline=baseline,
        meta_params_sha256=finished.digest,
        summary=summary,
    )


def train_in(
    run: Run,
    run_dir: Path,
    open_runtime: OpenRuntime,
    observers: Sequence[Observer],
    listening: Listening = no_interrupts,
    mirror: Mirror | None = None,
) -> Finished:
    """Train a run to its end in its directory, and evaluate it on test tasks."""
    with only_one_in(run_dir):
        start = starting_point(run.config, run_dir, mirror=mirror)
        with open_run(run, run_dir, start, open_runtime, observers) as runtime:
            if mirror is not None:
                mirror.push()  # the settings: there is a run now
            progress = take_steps(run, run_dir, start, runtime, observers, listening)
            digest = runtime.digest()
            _tell(observers, f"evaluating on {run.config.eval.num_tasks} test tasks")
            test = final_evaluation(run, start.storage, runtime, progress)
            warn_of_non_finite(test)
            return Finished(progress, test, digest, runtime.info)


@contextlib.contextmanager
def open_run(
    run: Run,
    run_dir: Path,
    start: StartingPoint,
    open_runtime: OpenRuntime,
    observers: Sequence[Observer],
) -> Iterator[Runtime]:
    """Open the run's runtime, at its starting point; its directory must be locked."""
    start.storage.remove_unfinished()
    for damage in start.damages:
        _tell(observers, f"left out: {damage}")
    with open_runtime(run) as runtime:
        write_settings(run, run_dir)
        begun = {
            "step": start.progress.step,
            "hardware": hardware(),
            "runtime": dataclasses.asdict(runtime.info),
            "plan": None if run.plan is None else dataclasses.asdict(run.plan),
        }
        with run_log(run_dir, run.config.run_id, begun):
            for line in (idle_line(run.config, runtime.info), mixed_line(runtime.info)):
                if line is not None:
                    _LOG.warning(line)
            if start.checkpoint is not None:
                restore(runtime, start.checkpoint)
            yield runtime


def take_steps(
    run: Run,
    run_dir: Path,
    start: StartingPoint,
    runtime: Runtime,
    observers: Sequence[Observer],
    listening: Listening = no_interrupts,
    on_validated: OnValidated | None = None,
) -> Progress:
    """Train to the last step, with metrics in the run's directory (see `loop.train`)."""
    writer = MetricsWriter(run_dir, start.progress.step)
    try:
        all_observers = guarded([writer, *observers])
        return train_steps(
            run, runtime, start.storage, start.progress, all_observers, listening, on_validated
        )
    finally:
        writer.close()


def final_evaluation(
    run: Run, storage: Storage, runtime: Runtime, progress: Progress
) -> Evaluation:
    """Evaluate the last step's meta-parameters, the best ones, or an ensemble, on test tasks."""
    options, step = run.config.eval, progress.step
    best = best_checkpoints(storage, progress)
    if options.checkpoint != "last" and len(best) < len(progress.best):
        _LOG.warning(
            "%d of the %d best checkpoints could not be written; the final evaluation is without",
            len(progress.best) - len(best),
            len(progress.best),
        )
    if options.checkpoint == "ensemble" and best:
        return evaluate_ensemble(run, runtime, "test", options.num_tasks, best)
    if options.checkpoint == "best" and best:
        checkpoint = best[0]()
        step = checkpoint.step
        restore(runtime, checkpoint)
    return evaluate_tasks(run, runtime, "test", options.num_tasks, step)


def warn_of_non_finite(evaluation: Evaluation) -> None:
    """Log a warning if predictions of the evaluated tasks were not finite."""
    if line := non_finite_line(as_plain(evaluation)):
        _LOG.warning("%s", line)


def best_checkpoints(storage: Storage, progress: Progress) -> list[Callable[[], Checkpoint]]:
    """Ways to read the checkpoints that are best on validation tasks, the best first.

    Those that are there: on a disk that was full, one may be missing.
    """
    there = steps_in(storage)
    steps = [step for step, _ in progress.best if step in there]
    return [functools.partial(read_checkpoint, storage, step) for step in steps]


def joint_config(config: RunConfig) -> RunConfig:
    """The settings of the jointly pre-trained network that `config` is compared with.

    The same network, tasks, outer optimiser, inner rate and number of tasks; no inner steps in
    training. (The factor of an LSTM's output is no inner rate: then it is the usual one.)
    """
    options = config.algorithm.options
    has_rate = options.get("inner_optimizer") != "lstm"
    kept = ("inner_lr", "eval_inner_steps") if has_rate else ("eval_inner_steps",)
    options = {k: v for k, v in options.items() if k in kept}
    location = config.checkpoint.location
    if location is not None:
        location = within(location, JOINT)
    return dataclasses.replace(
        config,
        joint_baseline=False,
        checkpoint=dataclasses.replace(config.checkpoint, location=location),
        algorithm=NamedOptions("joint", {**options, "inner_steps": 0}),
        gradient=NamedOptions("exact", {}),
    )


def _tell(observers: Sequence[Observer], what: str) -> None:
    for observer in observers:
        observer.on_phase(what)
