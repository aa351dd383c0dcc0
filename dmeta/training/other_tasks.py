"""Tasks of other sources, or of other sizes, than those that a run is trained on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import embeds
from dmeta.bilevel.types import Kind
from dmeta.declared import REQUIRED
from dmeta.options import NamedOptions, checked, default_options
from dmeta.registry import check_names, nearest
from dmeta.tasks import TASKS
from dmeta.tasks.source import BatchSize, EpisodeSize, TaskSource
from dmeta.training.build import make_source, num_outputs_of
from dmeta.training.config import DATA_LOCATION, RunConfig
from dmeta.training.setup import Run
from dmeta.training.task_fit import check_tasks, with_check_sum
from dmeta.training.task_options import (
    EPISODE_KEYS,
    OTHER_TASKS,
    RUN_KEYS,
    TaskOptions,
    other_tasks,
)
from dmeta.training.work.input_format import input_format
from dmeta.training.work.task_checks import first_task
from dmeta.training.work.worker import EvaluationTasks

_IMAGE_DIMENSIONS = 3


def with_tasks(
    config: RunConfig, ways: int | None, changes: Mapping[str, Any], key: str = "task"
) -> RunConfig:
    """The settings of a run whose tasks are for evaluation only, and may be others than its own.

    The size of a training task becomes that of an evaluation task, as which the run is tried; that
    of a mini-batch stays, for the network depends on its classes.

    Args:
        config: of the run.
        ways: most classes of a task that its network has outputs for; None: any number.
        changes: ``ways``, ``shots``, ``queries``, ``name`` (of another task source) and options of
            the task source; None: the run's own. With ``root`` or ``file`` the data may be others
            than those that the run has noted (``sha256``).
        key: of the settings that the changes are, for messages.

    Raises:
        ValueError: the run's network cannot learn such tasks, or there are none.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    own = config.task.source
    source = _named(str(given.pop("name", own.name)), own)
    sizes = {k: given.pop(k, getattr(config.task.evaluation, k)) for k in EPISODE_KEYS}
    evaluation = checked(EpisodeSize, sizes, key)
    trained = config.task.evaluation.ways
    if ways is not None and evaluation.ways != trained:
        names = [name for name, entry in ALGORITHMS.items() if embeds(entry.make)]
        some = f"{', '.join(names[:3])}, and {len(names) - 3} more"
        raise ValueError(
            f"{key}.ways must be {trained}, as in training, for algorithm={config.algorithm.name}, "
            f"whose network has one output for each class, got {evaluation.ways}; remove it, or "
            f"choose a method whose output does not depend on the ways ({some})"
        )
    _check_keys(given, source.name, key)
    options = dict(source.options)
    if given.keys() & DATA_LOCATION:
        options.pop("sha256", None)
    source = NamedOptions(source.name, {**options, **given})
    own_size = config.task.training
    training = own_size if isinstance(own_size, BatchSize) else evaluation
    return dataclasses.replace(config, task=TaskOptions(source, evaluation, training))


def _check_keys(given: Mapping[str, Any], name: str, prefix: str) -> None:
    """Refuse what is neither a size of the tasks nor an option of the source of that name."""
    options = default_options(TASKS[name].make) if name in TASKS else {}
    known = list(dict.fromkeys(["name", *EPISODE_KEYS, *options]))
    for key, value in given.items():
        if key in RUN_KEYS:
            own = key.removeprefix("train_")
            remedy = f"set {prefix}.{own}, or remove it" if own in EPISODE_KEYS else "remove it"
            raise ValueError(
                f"{prefix}.{key} must not be set in an evaluation, for it is of training, got "
                f"{value}; {remedy}"
            )
        if key not in known:
            raise ValueError(
                f"unknown key '{prefix}.{key}'{nearest(key, known)}; {prefix} has "
                f"{', '.join(known)}"
            )


def _named(name: str, own: NamedOptions) -> NamedOptions:
    """A task source with its usual options, and the data root of the run's own."""
    if name == own.name:
        return own
    entry = TASKS[name]
    defaults = default_options(entry.make)
    settings = entry.settings.items()
    usual = {k.removeprefix("task."): v for k, v in settings if k.startswith("task.")}
    options = {k: v for k, v in {**defaults, **usual}.items() if k not in RUN_KEYS}
    if _reads_data_root(name) and _reads_data_root(own.name) and own.options.get("root"):
        options["root"] = own.options["root"]
    return NamedOptions(name, {key: v for key, v in options.items() if v != REQUIRED})


def _reads_data_root(name: str) -> bool:
    """Whether a task source of that name reads a data root, which is None by default."""
    return name in TASKS and default_options(TASKS[name].make).get("root", "") is None


class Taken(NamedTuple):
    """The tasks that a run's network takes.

    Attributes:
        kind: of them.
        input_shape: of one example.
        num_outputs: of a regression, numbers of a target; None: any, or a classification.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    num_outputs: int | None


def check_fit(source: TaskSource, name: str, taken: Taken, key: str, remedy: str) -> None:
    """Check that a run's network takes the tasks of another source.

    Args:
        source: the other one.
        name: of it, for the message.
        taken: what the network was made for.
        key: of the setting, for the message.
        remedy: what to change.

    Raises:
        ValueError: it does not.
    """
    is_regression = source.kind == "regression" and taken.num_outputs is not None
    outputs = source.num_outputs(1) if is_regression else taken.num_outputs
    for what, got, wanted in (
        ("tasks of kind", source.kind, taken.kind),
        ("examples of shape", source.input_shape, taken.input_shape),
        ("targets of width", outputs, taken.num_outputs),
    ):
        if got != wanted:
            raise ValueError(
                f"{key} must have {what} {wanted}, which the run's network is made for, got "
                f"{name} with {got}; {remedy}"
            )


def with_other_tasks(run: Run, made: Mapping[str, TaskSource] | None = None) -> Run:
    """The run, finally evaluated on the tasks of ``eval.task``, too; reads their data.

    Args:
        run: prepared; nothing of it is started.
        made: sources that were made before, by the names in ``eval.task``.

    Raises:
        ValueError: data are not there, or the run's network does not take such tasks; the message
            or its notes say which of them.
    """
    options, tasks = {}, {}
    for name, changes in other_tasks(run.config.eval.task).items():
        with _noted(name):
            options[name], tasks[name] = _resolved(run, name, changes, (made or {}).get(name))
    if not tasks:
        return run
    work = dataclasses.replace(run.work, others=tasks)
    return dataclasses.replace(run, work=work, other_tasks=options)


@contextlib.contextmanager
def _noted(name: str) -> Iterator[None]:
    """Let an error say which of the other tasks it is of."""
    try:
        yield
    except ValueError as error:
        if f"{OTHER_TASKS}.{name}" not in str(error):
            error.add_note(f"here task.* is {OTHER_TASKS}.{name}.*")
        raise


def _resolved(
    run: Run, name: str, changes: Mapping[str, Any], made: TaskSource | None
) -> tuple[TaskOptions, EvaluationTasks]:
    """Other tasks of a run: which they are, with check sums of their data, and the tasks."""
    key, own = f"{OTHER_TASKS}.{name}", run.source
    check_names(TASKS, [changes["name"]], f"{key}.name")
    outputs = num_outputs_of(run.algorithm, own, run.config)
    is_regression = own.kind == "regression"
    config = with_tasks(run.config, None if is_regression else outputs, changes, key)
    source = make_source(config) if made is None else made
    task = config.task
    taken = Taken(own.kind, own.input_shape, outputs if is_regression else None)
    check_fit(source, task.source.name, taken, key, _remedy(key, task.source, source, taken))
    with _hinted(task.source):
        check_tasks(config, source, run.algorithm, ["test"])
    first = first_task(config, source, ["test"])
    if (dtype := input_format(source, first.support).dtype) != run.inputs.dtype:
        raise ValueError(
            f"{key} must have examples of type {run.inputs.dtype}, which the run's network is made "
            f"for, got {task.source.name} with {dtype}; choose another source"
        )
    noted = with_check_sum(config, source).task
    return noted, EvaluationTasks(source, noted.evaluation)


def _remedy(key: str, named: NamedOptions, source: TaskSource, taken: Taken) -> str:
    """What to change of tasks that do not fit: images may be resized, and grey ones be coloured."""
    if {len(source.input_shape), len(taken.input_shape)} != {_IMAGE_DIMENSIONS}:
        return "choose another source"
    channels, height, width = taken.input_shape
    if {"size", "channels"} <= named.options.keys() and height == width:
        return f"set {key}.size={height} and {key}.channels={channels}"
    if source.input_shape[0] > channels or height != width:
        return "choose another source"
    return (
        f"choose another source, or resize its images: {key}={{name:mixture,"
        f"sources:[{{name:{named.name}}}],image_size:{height},channels:{channels}}}"
    )


@contextlib.contextmanager
def _hinted(source: NamedOptions) -> Iterator[None]:
    """Let an error say how all classes of data that are divided here become test classes."""
    try:
        yield
    except ValueError as error:
        if "split_ratio" in source.options:
            error.add_note("split_ratio=[0,0,1] makes test classes of all classes")
        raise
