"""`dmeta train` and `dmeta.train`: one run from settings to results."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dmeta.bilevel.estimators import Loss
from dmeta.commands.display import Display, print_results
from dmeta.commands.hydra_app import as_override, compose
from dmeta.commands.places import check_folder
from dmeta.commands.saved import read_saved
from dmeta.runtime import make_runtime
from dmeta.runtime.protocol import Runtime
from dmeta.runtime.threads import torch_threads
from dmeta.tasks.source import TaskSource
from dmeta.training.budget import memory_line, within_budget
from dmeta.training.config import RunConfig, run_config
from dmeta.training.metrics import Observer
from dmeta.training.planning import plan_line, planned
from dmeta.training.results import Result
from dmeta.training.session import JOINT, joint_config, run_session
from dmeta.training.setup import Run, prepare
from dmeta.training.starting import CONFIG, starting_point
from dmeta.training.stopping import signals_heard

Settings = RunConfig | Mapping[str, Any] | Sequence[str]


def train(
    settings: Settings = (),
    *,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    algorithm: Any = None,
    loss: Loss | None = None,
    observers: Sequence[Observer] = (),
) -> Result:
    """Meta-train a few-shot learner.

    Args:
        settings: what to change of the defaults: a mapping such as ``{"algorithm": "fomaml",
            "task": "omniglot", "steps": 1000, "algorithm.inner_lr": 0.1}``, the command line's
            overrides as a list of texts, or a whole `RunConfig`.
        model: an own `nn.Module` instead of the named model.
        source: an own `dmeta.tasks.source.TaskSource` instead of the named task.
        algorithm: an own method: a class called with ``network=`` and ``loss=``, or a ready
            `dmeta.algorithms.Algorithm`.
        loss: an own loss instead of the named one, of support and query sets alike: (prediction
            [N, ...], target [N, ...]) -> scalar mean; a function or object that can be pickled.
        observers: told of every step and every line of metrics.

    Returns: the result, as in ``run_dir/results.json``.

    Raises:
        ValueError: whatever is wrong with the settings, before anything is started or written.
        TrainingStopped: too many steps without a finite meta-gradient.
    """
    config = _run_config(settings)
    own = {"model": model, "source": source, "algorithm": algorithm, "loss": loss}
    run, joint, run_dir = _prepared(config, own)
    return run_session(run, run_dir, open_runtime, observers, joint)


def train_command(settings: dict[str, Any], overrides: list[str]) -> None:
    """The verb: train with a progress display, then say what was found and written."""
    config = _config_of(settings, overrides)
    run, joint, run_dir = _prepared(config, {})
    metric = "accuracy" if run.source.kind == "classification" else "mse"
    start = starting_point(run.config, run_dir).progress
    title = [
        f"{config.algorithm.name} on {config.task.source.name} with {config.model.name} "
        f"({run.work.layout.size:,} meta-parameters), {config.meta_batch_size} tasks a step",
        *(line for line in (plan_line(run), memory_line(run)) if line),
        f"writing to {run_dir}",
    ]
    try:
        with Display() as display:
            display.start(title, config.steps, start.step, metric)
            result = run_session(run, run_dir, open_runtime, [display], joint, signals_heard)
    except KeyboardInterrupt as stop:
        stop.add_note(f"go on with: dmeta train run_dir={run_dir} resume=true")
        raise
    print_results(
        result.summary,
        paths=[run_dir / name for name in ("results.json", "metrics.jsonl", "figures")],
        next_command=f"dmeta evaluate run_dir={run_dir} num_tasks=2000",
    )


def open_runtime(run: Run) -> Runtime:
    """The runtime that the run's settings name."""
    config = run.config
    return make_runtime(config.runtime, run.work, run.outer, config.device, config.num_blocks)


def _run_config(settings: Settings) -> RunConfig:
    if isinstance(settings, RunConfig):
        return settings
    if isinstance(settings, Mapping):
        settings = [as_override(key, value) for key, value in settings.items()]
    return _config_of(compose("train", settings), settings)


def _config_of(composed: dict[str, Any], overrides: Sequence[str]) -> RunConfig:
    """The settings of a run; of a resumed one, what it was begun with and what is said anew."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if not composed.get("resume") or composed.get("run_dir") is None or "experiment" in keys:
        return run_config(composed)
    run_dir = Path(str(composed["run_dir"]))
    if not (run_dir / CONFIG).exists():
        return run_config(composed)  # and then refused, with its own message
    settings = read_saved(run_dir).config.as_mapping()
    # Where our token is shown is not for a folder that somebody gave us to say.
    for key in [*keys, "run_dir", "resume", "runtime.address", "runtime.allow_unauthenticated"]:
        _copy_value(composed, settings, key.split("."))
    return run_config(settings)


def _copy_value(source: Mapping[str, Any], target: dict[str, Any], path: list[str]) -> None:
    head, *rest = path
    if rest and isinstance(source.get(head), Mapping) and isinstance(target.get(head), dict):
        _copy_value(source[head], target[head], rest)
    elif head in source:
        target[head] = source[head]


def _prepared(config: RunConfig, own: Mapping[str, Any]) -> tuple[Run, Run | None, Path]:
    run_dir = Path(config.run_dir or _new_run_dir(config))
    check_folder(run_dir, "run_dir")
    config = dataclasses.replace(config, run_dir=str(run_dir))
    with torch_threads(config.runtime.threads_per_worker):
        run = planned(within_budget(prepare(config, **own)), _begun_with(run_dir))
    joint = None
    if config.joint_baseline:
        settings = dataclasses.replace(joint_config(run.config), runtime=config.runtime)
        kept = {key: own.get(key) for key in ("model", "loss")}
        joint = prepare(settings, data=run.source, **kept)
        with torch_threads(config.runtime.threads_per_worker):
            joint = planned(joint, _begun_with(run_dir / JOINT))
    return run, joint, run_dir


def _begun_with(run_dir: Path) -> Mapping[str, Any] | None:
    """The settings of the run that is already there."""
    return read_saved(run_dir).config.as_mapping() if (run_dir / CONFIG).exists() else None


def _new_run_dir(config: RunConfig) -> str:
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    return f"runs/{config.task.source.name}_{config.algorithm.name}_{now}"
