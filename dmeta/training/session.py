"""A whole run in its directory: begin or resume, train, evaluate, write what was found.

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
from dmeta.runtime.protocol import Runtime
from dmeta.training import figures
from dmeta.training.checkpoint import (
    Checkpoint,
    open_checkpoints,
    read_checkpoint,
    steps_in,
)
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import Evaluation, as_plain, non_finite_line
from dmeta.training.function_figure import FunctionPanel, adapted_functions, function_panels
from dmeta.training.guarding import guarded, warned_of
from dmeta.training.learner import Learner
from dmeta.training.loop import OnValidated, become, evaluate, evaluate_ensemble, train
from dmeta.training.metrics import MetricsWriter, Observer, read_metrics
from dmeta.training.mirror import Mirror
from dmeta.training.options import Choice
from dmeta.training.parallelism import idle_line, mixed_line
from dmeta.training.parts import num_outputs_of
from dmeta.training.progress import Progress
from dmeta.training.results import Finished, Result, hardware, summary_of, write_json
from dmeta.training.run_lock import only_one_in
from dmeta.training.run_log import run_log, warnings_logged
from dmeta.training.setup import Run
from dmeta.training.starting import StartingPoint, starting_point, write_settings
from dmeta.training.stopping import Listening, unheard
from dmeta.training.storage import Storage

_LOG = logging.getLogger(__name__)

OpenRuntime: TypeAlias = Callable[[Run], Runtime]
"""Starts a runtime for a run; a context manager."""

RESULTS, JOINT = "results.json", "joint_baseline"


def run_session(
    run: Run,
    run_dir: Path,
    open_runtime: OpenRuntime,
    observers: Sequence[Observer],
    joint: Run | None = None,
    listening: Listening = unheard,
    mirror: Mirror | None = None,
    joint_observers: Callable[[], Sequence[Observer]] = tuple,
) -> Result:
    """Train, evaluate on test tasks, and write results and figures.

    Args:
        run: what to train.
        run_dir: where to write.
        open_runtime: starts the runtime.
        observers: told of the progress, besides the run's own metrics files; their exceptions, as
            those of the figures, are warnings.
        joint: the jointly pre-trained network to compare with.
        listening: hears whoever wants the steps to stop.
        mirror: copies `run_dir` elsewhere, before each checkpoint; None: it stays there.
        joint_observers: called when the training of `joint` begins, returns the observers of it.

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
    _tell(observers, "drawing figures")
    with warnings_logged(run_dir, run.config.run_id), warned_of("figures"):
        draw_figures(run, run_dir, finished.test, joint, other)
    return Result(
        run_dir=run_dir,
        test=finished.test,
        joint_baseline=None if other is None else other.test,
        meta_params_sha256=finished.digest,
        summary=summary,
    )


def train_in(
    run: Run,
    run_dir: Path,
    open_runtime: OpenRuntime,
    observers: Sequence[Observer],
    listening: Listening = unheard,
    mirror: Mirror | None = None,
) -> Finished:
    """Train a run to its end in its directory, and evaluate it on test tasks."""
    with only_one_in(run_dir):
        start = starting_point(run.config, run_dir, mirror=mirror)
        with begin(run, run_dir, start, open_runtime, observers) as runtime:
            if mirror is not None:
                mirror.push()  # the settings: there is a run now
            progress = take_steps(run, run_dir, start, runtime, observers, listening)
            digest = runtime.digest()
            _tell(observers, f"evaluating on {run.config.eval.num_tasks} test tasks")
            test = final_evaluation(run, start.storage, runtime, progress)
            warn_of_non_finite(test)
            return Finished(progress, test, digest, runtime.info)


@contextlib.contextmanager
def begin(
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
                become(runtime, start.checkpoint)
            yield runtime


def take_steps(
    run: Run,
    run_dir: Path,
    start: StartingPoint,
    runtime: Runtime,
    observers: Sequence[Observer],
    listening: Listening = unheard,
    on_validated: OnValidated | None = None,
) -> Progress:
    """Train to the last step, with metrics in the run's directory (see `loop.train`)."""
    writer = MetricsWriter(run_dir, start.progress.step)
    try:
        told = guarded([writer, *observers])
        return train(run, runtime, start.storage, start.progress, told, listening, on_validated)
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
        become(runtime, checkpoint)
    return evaluate(run, runtime, "test", options.num_tasks, step)


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
        algorithm=Choice("joint", {**options, "inner_steps": 0}),
        gradient=Choice("exact", {}),
    )


def learner_of(run: Run, checkpoint: Checkpoint) -> Learner:
    """The learner that a checkpoint of this run holds."""
    params = run.work.layout.unflatten(run.work.layout.flatten(checkpoint.meta_params()))
    network = run.algorithm.network.to("cpu", training=False)
    algorithm = dataclasses.replace(run.algorithm, network=network)  # type: ignore[type-var]
    ways = num_outputs_of(algorithm, run.source, run.config)
    return Learner(
        algorithm,
        params,
        run.source.kind,
        run.inputs,
        checkpoint.step,
        ways if run.source.kind == "classification" else None,
    )


def draw_figures(
    run: Run, run_dir: Path, test: Evaluation, joint: Run | None, other: Finished | None
) -> None:
    """The run's plots, under ``figures/``; those of which there is nothing to show are left out.

    One that cannot be drawn is warned of.
    """
    folder = run_dir / "figures"
    folder.mkdir(exist_ok=True)
    name, source = run.config.algorithm.name, run.source
    rows = read_metrics(run_dir)
    if any(row.get(test.metric) is not None for row in rows):
        with _figure(folder, "learning_curve.png") as path:
            figures.learning_curve(rows, path, test.metric, source.kind)
    runs = {name: (run, run_dir, test)}
    if joint is not None and other is not None:
        runs["joint pre-training"] = (joint, run_dir / JOINT, other.test)
    evaluations = {title: evaluation for title, (_, _, evaluation) in runs.items()}
    with _figure(folder, "inner_steps.png") as path:
        figures.inner_step_curve(evaluations, path)
    has_steps = len(test.transductive.mean) > 1
    is_function = source.kind == "regression" and source.input_shape == (1,)
    if is_function and source.num_outputs(1) == 1 and has_steps:
        with _figure(folder, "adapted_functions.png") as path:
            panels = {title: _function_panels(*each) for title, each in runs.items()}
            adapted_functions(panels, path)


@contextlib.contextmanager
def _figure(folder: Path, name: str) -> Iterator[Path]:
    """Where a figure is drawn; a failure inside is a warning."""
    with warned_of(f"{folder.name}/{name}"):
        yield folder / name


def _function_panels(run: Run, run_dir: Path, test: Evaluation) -> list[FunctionPanel]:
    config = run.config
    storage = open_checkpoints(run_dir, config.checkpoint.location)
    learner = learner_of(run, read_checkpoint(storage, test.step))
    return function_panels(
        learner.algorithm,
        learner.meta_params,
        run.source,
        config.task.evaluation,
        config.eval.seed,
    )


def _tell(observers: Sequence[Observer], what: str) -> None:
    for observer in observers:
        observer.on_phase(what)
