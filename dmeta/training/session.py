"""A whole run in its directory: begin or resume, train, evaluate, write what was found.

Knows the runtime only as something it is given a way to open.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from dmeta.runtime.protocol import Runtime
from dmeta.training import figures
from dmeta.training.checkpoint import (
    CheckpointError,
    list_checkpoints,
    read_checkpoint,
    remove_unfinished,
)
from dmeta.training.config import Choice, RunConfig
from dmeta.training.evaluation import Evaluation
from dmeta.training.learner import Learner
from dmeta.training.loop import (
    Progress,
    evaluate,
    evaluate_ensemble,
    fresh,
    progress_of,
    train,
)
from dmeta.training.metrics import MetricsWriter, Observer, read_metrics
from dmeta.training.results import Finished, Result, summary_of, write_json
from dmeta.training.run_lock import only_one_in
from dmeta.training.setup import Run, num_outputs_of
from dmeta.training.stopping import Listening, unheard

OpenRuntime: TypeAlias = Callable[[Run], Runtime]
"""Starts a runtime for a run; a context manager."""

CONFIG, RESULTS, JOINT = "config.json", "results.json", "joint_baseline"
_SHAPES = "shapes"


def starting_point(config: RunConfig, run_dir: Path) -> tuple[Progress, Path | None]:
    """Where the run begins: step 0, or its last checkpoint if it is to be resumed.

    Raises:
        ValueError: the directory holds a run and ``resume`` is not set, or one of other settings,
            or its last checkpoint is damaged.
    """
    found = list_checkpoints(run_dir / "checkpoints")
    fingerprint = config.fingerprint()
    if not (run_dir / CONFIG).exists():
        if config.resume is True:
            raise ValueError(
                f"resume=true must have a run in run_dir, got none in {run_dir}; "
                "correct run_dir, or choose resume=auto"
            )
        return fresh(fingerprint), None
    if not config.resume:
        raise ValueError(
            f"run_dir must be new, got {run_dir} with a run in it; add resume=true to go on with "
            "it, or choose another run_dir"
        )
    saved = read_settings(run_dir)
    if saved["fingerprint"] != fingerprint:
        changed = ", ".join(_differences(saved["settings"], config.as_mapping()))
        raise ValueError(
            f"run_dir must belong to this configuration, got {run_dir} of another (different: "
            f"{changed}); give the same settings, or choose another run_dir"
        )
    if not found:
        return fresh(fingerprint), None
    checkpoint = read_checkpoint(found[-1])
    if checkpoint.step > config.steps:
        raise ValueError(
            f"steps must be >= {checkpoint.step}, the steps that {run_dir} has done, got "
            f"{config.steps}; raise it"
        )
    return progress_of(checkpoint), checkpoint.path


def read_settings(run_dir: Path) -> dict[str, Any]:
    """The content of a run's config.json.

    Raises:
        CheckpointError: it is not there, or not readable.
    """
    path = run_dir / CONFIG
    try:
        content = json.loads(path.read_text())
        content["settings"], content["fingerprint"], content[_SHAPES]  # all must be there
    except FileNotFoundError:
        raise CheckpointError(
            f"run_dir must hold a run, got {run_dir} without {CONFIG}; correct run_dir"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(
            f"{path} must be a run's settings, got {error!r}; it was altered or truncated: "
            "restore it, or choose another run_dir"
        ) from None
    return dict(content)


def run_session(
    run: Run,
    run_dir: Path,
    open_runtime: OpenRuntime,
    observers: Sequence[Observer],
    joint: Run | None = None,
    listening: Listening = unheard,
) -> Result:
    """Train, evaluate on test tasks, and write results and figures.

    Args:
        run: what to train.
        run_dir: where to write.
        open_runtime: starts the runtime.
        observers: told of the progress, besides the run's own metrics files.
        joint: the jointly pre-trained network to compare with.
        listening: hears whoever wants the steps to stop.

    Raises:
        ValueError: another process trains in `run_dir`.
        TrainingStopped: too many steps in a row had no finite gradient.
        Stopped: somebody asked for it.
    """
    finished = train_in(run, run_dir, open_runtime, observers, listening)
    other = None
    if joint is not None:
        _tell(observers, "training the jointly pre-trained network to compare with")
        joint_dir = run_dir / JOINT
        resume = (joint_dir / CONFIG).exists()
        joint = dataclasses.replace(joint, config=dataclasses.replace(joint.config, resume=resume))
        other = train_in(joint, joint_dir, open_runtime, [], listening)
    summary = summary_of(run, finished, other)
    write_json(run_dir / RESULTS, summary)
    _tell(observers, "drawing figures")
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
) -> Finished:
    """Train a run to its end in its directory, and evaluate it on test tasks."""
    with only_one_in(run_dir):
        start, checkpoint = starting_point(run.config, run_dir)
        remove_unfinished(run_dir / "checkpoints")
        with open_runtime(run) as runtime:
            return _train_with(runtime, run, run_dir, start, checkpoint, observers, listening)


def _train_with(
    runtime: Runtime,
    run: Run,
    run_dir: Path,
    start: Progress,
    checkpoint: Path | None,
    observers: Sequence[Observer],
    listening: Listening,
) -> Finished:
    _write_settings(run, run_dir)
    if checkpoint is not None:
        runtime.restore(str(checkpoint))
    writer = MetricsWriter(run_dir, start.step)
    try:
        progress = train(run, runtime, run_dir, start, [writer, *observers], listening)
    finally:
        writer.close()
    digest = runtime.digest()
    _tell(observers, f"evaluating on {run.config.eval.num_tasks} test tasks")
    test = final_evaluation(run, run_dir, runtime, progress)
    return Finished(progress, test, digest, runtime.info)


def final_evaluation(run: Run, run_dir: Path, runtime: Runtime, progress: Progress) -> Evaluation:
    """Evaluate the last step's meta-parameters, the best ones, or an ensemble, on test tasks."""
    options, step = run.config.eval, progress.step
    best = {step: checkpoint_path(run_dir, step) for step, _ in progress.best}
    if options.checkpoint == "ensemble" and best:
        return evaluate_ensemble(run, runtime, "test", options.num_tasks, best)
    if options.checkpoint == "best" and best:
        step, path = next(iter(best.items()))
        runtime.restore(str(path))
    return evaluate(run, runtime, "test", options.num_tasks, step)


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def joint_config(config: RunConfig) -> RunConfig:
    """The settings of the jointly pre-trained network that `config` is compared with.

    The same network, tasks, outer optimiser, inner rate and number of tasks; no inner steps in
    training. (The factor of an LSTM's output is no inner rate: then it is the usual one.)
    """
    options = config.algorithm.options
    has_rate = options.get("inner_optimizer") != "lstm"
    kept = ("inner_lr", "eval_inner_steps") if has_rate else ("eval_inner_steps",)
    options = {k: v for k, v in options.items() if k in kept}
    return dataclasses.replace(
        config,
        joint_baseline=False,
        algorithm=Choice("joint", {**options, "inner_steps": 0}),
        gradient=Choice("exact", {}),
    )


def learner_of(run: Run, checkpoint_path: Path) -> Learner:
    """The learner that a checkpoint of this run holds."""
    checkpoint = read_checkpoint(checkpoint_path)
    params = run.work.layout.unflatten(run.work.layout.flatten(checkpoint.meta_params()))
    network = run.algorithm.network.to("cpu", training=False)
    algorithm = dataclasses.replace(run.algorithm, network=network)  # type: ignore[type-var]
    return Learner(algorithm, params, run.source.kind, run.source.input_shape, checkpoint.step)


def draw_figures(
    run: Run, run_dir: Path, test: Evaluation, joint: Run | None, other: Finished | None
) -> None:
    """The run's plots, under ``figures/``; those of which there is nothing to show are left out."""
    folder = run_dir / "figures"
    folder.mkdir(exist_ok=True)
    name, source = run.config.algorithm.name, run.source
    rows = read_metrics(run_dir)
    if any(row.get(test.metric) is not None for row in rows):
        figures.learning_curve(rows, folder / "learning_curve.png", test.metric, source.kind)
    runs = {name: (run, run_dir, test)}
    if joint is not None and other is not None:
        runs["joint pre-training"] = (joint, run_dir / JOINT, other.test)
    evaluations = {title: evaluation for title, (_, _, evaluation) in runs.items()}
    figures.inner_step_curve(evaluations, folder / "inner_steps.png")
    has_steps = len(test.transductive.mean) > 1
    if source.kind == "regression" and source.input_shape == (1,) and has_steps:
        panels = {title: _function_panels(*each) for title, each in runs.items()}
        figures.adapted_functions(panels, folder / "adapted_functions.png")


def _function_panels(run: Run, run_dir: Path, test: Evaluation) -> list[figures.FunctionPanel]:
    learner = learner_of(run, checkpoint_path(run_dir, test.step))
    config = run.config
    return figures.function_panels(
        learner.algorithm,
        learner.meta_params,
        run.source,
        config.task.evaluation,
        config.eval.seed,
    )


def _tell(observers: Sequence[Observer], what: str) -> None:
    for observer in observers:
        observer.on_phase(what)


def _write_settings(run: Run, run_dir: Path) -> None:
    write_json(
        run_dir / CONFIG,
        {
            "fingerprint": run.config.fingerprint(),
            "settings": run.config.as_mapping(),
            _SHAPES: {
                "kind": run.source.kind,
                "input_shape": list(run.source.input_shape),
                "num_outputs": num_outputs_of(run.algorithm, run.source, run.config),
            },
        },
    )


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [
            path
            for key in keys
            if key not in ("run_dir", "resume", "joint_baseline")
            for path in _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        ]
    return [] if old == new else [prefix.rstrip(".")]
