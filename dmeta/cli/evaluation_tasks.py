"""The tasks of an evaluation, where they differ from those of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import embeds
from dmeta.cli.saved_run import Shapes
from dmeta.cli.settings.hydra_app import compose
from dmeta.formatting import a_few
from dmeta.options import NamedOptions, checked, default_options
from dmeta.registry import nearest
from dmeta.tasks import TASKS
from dmeta.tasks.source import BatchSize, EpisodeSize, TaskSource
from dmeta.training.config import RunConfig
from dmeta.training.task_options import EPISODE_KEYS, SIZE_KEYS, TaskOptions


def with_tasks(config: RunConfig, shapes: Shapes, changes: Mapping[str, Any]) -> RunConfig:
    """The settings of a run whose tasks are for evaluation only, and may be others than its own.

    The size of a training task becomes that of an evaluation task, as which the run is tried; that
    of a mini-batch stays, for the network depends on its classes.

    Args:
        config: of the run.
        shapes: of its network.
        changes: ``ways``, ``shots``, ``queries``, ``name`` (of another task source) and options of
            the task source; None: the run's own.

    Raises:
        ValueError: the run's network cannot learn such tasks, or there are none.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    own = config.task.source
    source = _named(str(given.pop("name", own.name)), own)
    sizes = {k: given.pop(k, getattr(config.task.evaluation, k)) for k in EPISODE_KEYS}
    evaluation = checked(EpisodeSize, sizes, "task")
    trained = config.task.evaluation.ways
    if shapes.ways is not None and evaluation.ways != trained:
        others = a_few([name for name, entry in ALGORITHMS.items() if embeds(entry.make)])
        raise ValueError(
            f"task.ways must be {trained}, as in training, for algorithm={config.algorithm.name}, "
            f"whose network has one output for each class, got {evaluation.ways}; remove it, or "
            f"evaluate a run of a method whose output does not depend on the ways ({others})"
        )
    _check_keys(given, source.name)
    source = NamedOptions(source.name, {**source.options, **given})
    own_size = config.task.training
    training = own_size if isinstance(own_size, BatchSize) else evaluation
    return dataclasses.replace(config, task=TaskOptions(source, evaluation, training))


def _check_keys(given: Mapping[str, Any], name: str) -> None:
    """Refuse what is neither a size of the tasks nor an option of the source of that name."""
    options = default_options(TASKS[name].make) if name in TASKS else {}
    known = list(dict.fromkeys(["name", *EPISODE_KEYS, *options]))
    for key, value in given.items():
        if key in SIZE_KEYS:
            own = key.removeprefix("train_")
            remedy = f"set task.{own}, or remove it" if own in EPISODE_KEYS else "remove it"
            raise ValueError(
                f"task.{key} must not be set in an evaluation, for it is of training, got {value}; "
                f"{remedy}"
            )
        if key not in known:
            raise ValueError(
                f"unknown key 'task.{key}'{nearest(key, known)}; task has {', '.join(known)}"
            )


def _named(name: str, own: NamedOptions) -> NamedOptions:
    """A task source with its usual options, and the data root of the run's own."""
    if name == own.name:
        return own
    TASKS[name]
    options = dict(compose("train", [f"task={name}"])["task"])
    for key in SIZE_KEYS:
        options.pop(key, None)
    if options.get("root") and own.options.get("root"):  # none by default: not in a data root
        options["root"] = own.options["root"]
    return NamedOptions(options.pop("name"), options)


def check_tasks(source: TaskSource, shapes: Shapes, name: str) -> None:
    """Raises ValueError if a run's network does not take the tasks of a source, called `name`."""
    for what, got, wanted in (
        ("tasks of kind", source.kind, shapes.kind),
        ("examples of shape", source.input_shape, shapes.input_shape),
    ):
        if got != wanted:
            raise ValueError(
                f"the task must have {what} {wanted}, which the run's network was trained on, got "
                f"{name} with {got}; choose another task.name (or source=)"
            )


def described(task: TaskOptions) -> dict[str, Any]:
    """What evaluation tasks are, as plain data."""
    return {
        "name": task.source.name,
        **dataclasses.asdict(task.evaluation),
        **task.source.options,
    }
