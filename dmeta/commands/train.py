"""`dmeta train` and `dmeta.train`: one run from settings to results."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dmeta.commands.display import Display, print_results
from dmeta.commands.hydra_app import as_override, compose
from dmeta.runtime import make_runtime
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.protocol import Runtime
from dmeta.tasks.source import TaskSource
from dmeta.training.config import RunConfig, run_config
from dmeta.training.metrics import Observer
from dmeta.training.results import Result
from dmeta.training.session import joint_config, run_session, starting_point
from dmeta.training.setup import Run, prepare

Settings = RunConfig | Mapping[str, Any] | Sequence[str]


def train(
    settings: Settings = (),
    *,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    algorithm: Any = None,
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
        observers: told of every step and every line of metrics.

    Returns: the result, as in ``run_dir/results.json``.

    Raises:
        ValueError: whatever is wrong with the settings, before anything is started or written.
        TrainingStopped: too many steps without a finite meta-gradient.
    """
    config = _run_config(settings)
    own = {"model": model, "source": source, "algorithm": algorithm}
    run, joint, run_dir = _prepared(config, own)
    return run_session(run, run_dir, open_runtime, observers, joint)


def train_command(settings: dict[str, Any]) -> None:
    """The verb: train with a progress display, then say what was found and written."""
    config = run_config(settings)
    run, joint, run_dir = _prepared(config, {})
    metric = "accuracy" if run.source.kind == "classification" else "mse"
    start, _ = starting_point(run.config, run_dir)
    title = [
        f"{config.algorithm.name} on {config.task.source.name} with {config.model.name} "
        f"({run.work.layout.size:,} meta-parameters), {config.meta_batch_size} tasks a step",
        f"writing to {run_dir}",
    ]
    with Display() as display:
        display.start(title, config.steps, start.step, metric)
        result = run_session(run, run_dir, open_runtime, [display], joint)
    print_results(
        result.summary,
        paths=[run_dir / name for name in ("results.json", "metrics.jsonl", "figures")],
        next_command=f"dmeta evaluate run_dir={run_dir} num_tasks=2000",
    )


def open_runtime(run: Run) -> Runtime:
    """The runtime that the run's settings name."""
    config = run.config
    size = config.runtime.block_size
    num_blocks = len(blocks_of("train", 0, config.meta_batch_size, size))
    return make_runtime(config.runtime, run.work, run.outer, config.device, num_blocks)


def _run_config(settings: Settings) -> RunConfig:
    if isinstance(settings, RunConfig):
        return settings
    if isinstance(settings, Mapping):
        settings = [as_override(key, value) for key, value in settings.items()]
    return run_config(compose("train", settings))


def _prepared(config: RunConfig, own: Mapping[str, Any]) -> tuple[Run, Run | None, Path]:
    run_dir = Path(config.run_dir or _new_run_dir(config))
    config = dataclasses.replace(config, run_dir=str(run_dir))
    starting_point(config, run_dir)  # refused before data is read
    run = prepare(config, **own)
    joint = None
    if config.joint_baseline:
        joint = prepare(joint_config(run.config), model=own.get("model"), source=run.source)
    return run, joint, run_dir


def _new_run_dir(config: RunConfig) -> str:
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    return f"runs/{config.task.source.name}_{config.algorithm.name}_{now}"
