"""`dmeta train` and `dmeta.train`: one run from settings to results."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from torch import nn

from dmeta.bilevel.types import Loss
from dmeta.cli.errors import explained
from dmeta.cli.evaluation_file import set_evaluation_aside
from dmeta.cli.preparation import prepared, with_plans
from dmeta.cli.saved_run import read_saved
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.settings.trust import check_saved, trust_word, trusting, trusts
from dmeta.cli.settings.user_source import defaults_for, refuse_ignored
from dmeta.cli.single_run import alone_in_process
from dmeta.cli.terminal.display import Display, console_for
from dmeta.cli.terminal.results_table import print_results
from dmeta.launch import open_runtime, workplace_of
from dmeta.metrics.metric import Metric
from dmeta.quoting import override_word, overrides_of
from dmeta.reports.run_report import draw_run
from dmeta.runs.folder import RunPlace, run_place, training_at
from dmeta.runs.layout import CONFIG
from dmeta.runs.metrics import Observer
from dmeta.runtime.threads import torch_threads
from dmeta.tasks.augmentation.augment import ImageTransform
from dmeta.tasks.in_memory import Arrays, source_of
from dmeta.tasks.source import TaskSource
from dmeta.training.autotune.memory_budget import memory_line
from dmeta.training.autotune.planning import plan_line
from dmeta.training.config import RunConfig, run_config
from dmeta.training.interrupts import Listening, no_interrupts, stop_on_signals
from dmeta.training.results import Result
from dmeta.training.resume import starting_point
from dmeta.training.run import run_session
from dmeta.training.session import Session
from dmeta.training.settings_check import check_without_data
from dmeta.training.setup import Run

Settings = RunConfig | Mapping[str, Any] | Sequence[str]


@alone_in_process("dmeta.train")
def train(
    settings: Settings = (),
    *,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    data: Arrays | None = None,
    algorithm: Any = None,
    loss: Loss | None = None,
    metrics: Sequence[str | Metric] | None = None,
    augment: ImageTransform | None = None,
    observers: Sequence[Observer] = (),
    trust: bool = False,
    progress: bool | None = None,
) -> Result:
    """Meta-train a few-shot learner.

    Args:
        settings: what to change of the defaults: a mapping such as ``{"algorithm": "fomaml",
            "task": "omniglot", "steps": 1000, "algorithm.inner_lr": 0.1}``, whose values are taken
            as they are; the command line's overrides as a list of texts; or a whole `RunConfig`.
        model: your own `nn.Module` instead of the named model.
        source: your own `dmeta.tasks.source.TaskSource` instead of the named task. Without a model,
            images get ``conv4`` and vectors ``mlp``; no joint baseline is trained unless asked for.
        data: instead of a source, arrays: (x, y) or (x, y, splits), as `dmeta.from_arrays` takes
            them.
        algorithm: your own method: a class called with ``network=`` and ``loss=``, or a ready
            `dmeta.algorithms.algorithm.Algorithm`.
        loss: your own loss instead of the named one, of support and query sets alike: (prediction
            [N, ...], target [N, ...]) -> scalar mean; a function or object that can be pickled.
        metrics: instead of ``eval.metrics``: names, or your own (`dmeta.Metric`), the primary one
            first.
        augment: your own augmentation of training images instead of ``task.augment``: a transform
            of `torchvision.transforms.v2`, called with each image (uint8 [C, H, W]), or any
            callable, called with all images of a task ([n, C, H, W]); it returns the like.
        observers: called for every step and every line of metrics.
        trust: use addresses and interpolations in the files that `settings` name (a run to be
            resumed, an experiment) even if others wrote them (`dmeta.cli.settings.trust`).
        progress: show it as the command line does; None: where standard output or standard error
            is a terminal or a notebook.

    Returns: the result, as in ``run_dir/results.json``.

    Raises:
        RuntimeError: another thread of this process trains or evaluates.
        ValueError: whatever is wrong with the settings, before anything is started or written.
        TrainingStopped: too many steps without a finite meta-gradient.
    """
    own = {
        "model": model,
        "source": source_of(source, data),
        "algorithm": algorithm,
        "loss": loss,
        "metrics": metrics,
        "augment": augment,
    }
    config = _run_config(settings, own, trust)
    with run_place(config.run_dir or _new_run_dir(config)) as place:
        result = _trained(config, own, place, observers, console_for(progress))
        return result if place.mirror is None else dataclasses.replace(result, run_dir=place.name)


def train_command(settings: dict[str, Any], overrides: list[str]) -> None:
    """The verb: train with a progress display, then say what was found and written."""
    config = _config_of(settings, overrides)
    if config.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch.compile looks at them, whatever computes
    with run_place(config.run_dir or _new_run_dir(config)) as place:
        try:
            result = _trained(config, {}, place, (), Console(), stop_on_signals)
        except KeyboardInterrupt as stop:
            stop.add_note(_how_to_go_on(config, place))
            raise
        print_results(
            result.summary,
            paths=[place.locate(name) for name in ("results.json", "metrics.jsonl", "figures")],
            next_command=f"dmeta evaluate {_this_run(config, place)} num_tasks=2000",
        )


def _how_to_go_on(config: RunConfig, place: RunPlace) -> str:
    """After an interruption; one before the first step, while plans are timed, leaves nothing."""
    if not (place.folder / CONFIG).exists():
        return "nothing was written; begin it again with the same command"
    return f"continue with: dmeta train {_this_run(config, place)} resume=true"


def _this_run(config: RunConfig, place: RunPlace) -> str:
    """Words that name it in another command."""
    word = override_word("run_dir", place.name)
    return word + trust_word(config.as_mapping(), place.name)


def _trained(
    config: RunConfig,
    own: Mapping[str, Any],
    place: RunPlace,
    observers: Sequence[Observer],
    console: Console,
    listening: Listening = no_interrupts,
) -> Result:
    """Prepare and train; shown on the console."""
    display = Display(console)
    run, joint = prepared(config, own, place, display.message)
    with workplace_of(run.config) as workplace:
        run, joint = with_plans(run, joint, place, workplace, display.message)
        with display, training_at(place):
            set_evaluation_aside(run.config, place)
            _show(display, run, place)
            opened = functools.partial(open_runtime, workplace=workplace)
            watchers = [display, *observers, *_gauges(run)]
            session = Session(run, place.folder, opened, watchers, listening, place.mirror)
            shown_joint = functools.partial(_shown_joint, display, joint)
            return run_session(session, joint, shown_joint, draw_run)


def _show(display: Display, run: Run, place: RunPlace) -> None:
    config = run.config
    start = starting_point(config, place.folder).progress
    title = [
        f"{config.algorithm.name} on {config.task.source.name} with {config.model.name} "
        f"({run.work.layout.size:,} meta-parameters), {config.meta_batch_size} tasks a step",
        *(line for line in (plan_line(run), memory_line(run)) if line),
        f"writing to {place.name}",
    ]
    display.start(title, config.steps, start.step, run.metrics[0].declaration)


def _shown_joint(display: Display, joint: Run | None) -> Sequence[Observer]:
    assert joint is not None
    display.start([], joint.config.steps, 0, joint.metrics[0].declaration)
    return [display]


def check_command(settings: dict[str, Any], overrides: list[str]) -> None:  # noqa: ARG001 - a verb's
    """Check what of the verb can be checked where its data, run and cluster are not.

    Raises:
        ValueError: whatever is wrong with the settings.
    """
    config = run_config(settings)
    if config.resume is not True:  # then the run has its settings, which are not here
        with torch_threads(config.compute.threads_per_worker):
            check_without_data(config)


def _gauges(run: Run) -> list[Observer]:
    """Who tells Prometheus of the run, if there is a Ray cluster to do it."""
    config = run.config
    if config.runtime.name == "local":
        return []
    from dmeta.runtime.ray.prometheus import Gauges  # imports Ray

    metric = run.metrics[0].name
    return [Gauges(config.run_id, config.algorithm.name, config.task.source.name, metric)]


def _run_config(settings: Settings, own: Mapping[str, Any], trust: bool) -> RunConfig:
    if isinstance(settings, RunConfig):
        return settings
    if isinstance(settings, str) or not isinstance(settings, Mapping | Sequence):
        raise ValueError(
            "settings must be a mapping such as {'steps': 100}, a list of overrides such as "
            f"['steps=100'], or a RunConfig, got {settings!r}; change them"
        )
    if isinstance(settings, Mapping):
        settings = overrides_of(settings)
    settings = [*settings, *trusting(trust)]
    refuse_ignored(settings, own)
    source, model, algorithm = (own[key] for key in ("source", "model", "algorithm"))
    chosen: list[str] = []
    with explained("train", settings):
        if source is not None:
            has_network = model is not None or hasattr(algorithm, "network")
            chosen = defaults_for(source, settings, has_network=has_network)
        composed = compose("train", [*chosen, *settings])
    return _config_of(composed, settings)


def _config_of(composed: dict[str, Any], overrides: Sequence[str]) -> RunConfig:
    """The settings of a run; of a resumed one, what it was started with, and the changes."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if not composed.get("resume") or composed.get("run_dir") is None or "experiment" in keys:
        return run_config(composed)
    with run_place(str(composed["run_dir"])) as place:
        if not (place.folder / CONFIG).exists():
            return run_config(composed)  # and then refused, with its own message
        settings = read_saved(place).config.as_mapping()
    # Where our token is shown is not for a folder that somebody gave us to say.
    for key in [*keys, "run_dir", "resume", "runtime.address", "runtime.allow_unauthenticated"]:
        _copy_value(composed, settings, key.split("."))
    if not trusts(overrides):
        check_saved(settings, place.name, typed=keys)
    return run_config(settings)


def _copy_value(source: Mapping[str, Any], target: dict[str, Any], path: list[str]) -> None:
    head, *rest = path
    if rest and isinstance(source.get(head), Mapping) and isinstance(target.get(head), dict):
        _copy_value(source[head], target[head], rest)
    elif head in source:
        target[head] = source[head]


def _new_run_dir(config: RunConfig) -> str:
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    return f"runs/{config.task.source.name}_{config.algorithm.name}_{now}"
