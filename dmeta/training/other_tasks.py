"""Tasks of other sources, or of other sizes, than those that a run is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import embeds
from dmeta.bilevel.types import Kind
from dmeta.declared import REQUIRED
from dmeta.options import NamedOptions, checked, default_options
from dmeta.registry import nearest
from dmeta.tasks import TASKS
from dmeta.tasks.source import BatchSize, EpisodeSize, TaskSource
from dmeta.training.config import RunConfig
from dmeta.training.task_options import EPISODE_KEYS, SIZE_KEYS, TaskOptions


def with_tasks(config: RunConfig, ways: int | None, changes: Mapping[str, Any]) -> RunConfig:
    """The settings of a run whose tasks are for evaluation only, and may be others than its own.

    The size of a training task becomes that of an evaluation task, as which the run is tried; that
    of a mini-batch stays, for the network depends on its classes.

    Args:
        config: of the run.
        ways: most classes of a task that its network has outputs for; None: any number.
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
    if ways is not None and evaluation.ways != trained:
        names = [name for name, entry in ALGORITHMS.items() if embeds(entry.make)]
        some = f"{', '.join(names[:3])}, and {len(names) - 3} more"
        raise ValueError(
            f"task.ways must be {trained}, as in training, for algorithm={config.algorithm.name}, "
            f"whose network has one output for each class, got {evaluation.ways}; remove it, or "
            f"evaluate a run of a method whose output does not depend on the ways ({some})"
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
    entry = TASKS[name]
    defaults = default_options(entry.make)
    settings = entry.settings.items()
    usual = {k.removeprefix("task."): v for k, v in settings if k.startswith("task.")}
    options = {k: v for k, v in {**defaults, **usual}.items() if k not in SIZE_KEYS}
    if _reads_data_root(name) and _reads_data_root(own.name) and own.options.get("root"):
        options["root"] = own.options["root"]
    return NamedOptions(name, {key: v for key, v in options.items() if v != REQUIRED})


def _reads_data_root(name: str) -> bool:
    """Whether a task source of that name reads a data root, which is None by default."""
    return name in TASKS and default_options(TASKS[name].make).get("root", "") is None


def check_fit(source: TaskSource, name: str, kind: Kind, input_shape: tuple[int, ...]) -> None:
    """Check that a run's network takes the tasks of another source.

    Args:
        source: the other one.
        name: of it, for the message.
        kind: of the tasks that the network was made for.
        input_shape: of one example of those.

    Raises:
        ValueError: it does not.
    """
    for what, got, wanted in (
        ("tasks of kind", source.kind, kind),
        ("examples of shape", source.input_shape, input_shape),
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
