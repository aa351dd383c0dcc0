"""The settings of the tasks of a run: of which source, and how large."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from dmeta.options import NamedOptions, check_fields, checked, named_options
from dmeta.tasks.source import BatchSize, EpisodeSize, Size
from dmeta.typed_values import typed

EPISODE_KEYS = tuple(field.name for field in dataclasses.fields(EpisodeSize))
BATCH_KEYS = tuple(field.name for field in dataclasses.fields(BatchSize))

SAMPLING_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(EpisodeSize)
    if field.default is not dataclasses.MISSING
}
"""Keys that say how sizes are drawn -> what they are where all tasks are alike."""

RUN_KEYS = (*EPISODE_KEYS, *(f"train_{key}" for key in (*EPISODE_KEYS, *BATCH_KEYS)), "augment")
"""Keys of ``task`` that a run reads, whatever its task source."""


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks, and how large.

    Attributes:
        source: the task source and its own options (data root, split, ...).
        evaluation: size of a task at evaluation.
        training: size of a task, or of a mini-batch, in training.
        augment: random changes of the images, in training alone, in order: names, or names and
            options such as ``{name: crop, padding: 4}``.
    """

    source: NamedOptions
    evaluation: EpisodeSize
    training: Size
    augment: tuple[NamedOptions, ...] = ()

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_fields(self.evaluation, "task")
        hints = typing.get_type_hints(type(self.training), include_extras=True)
        for field in dataclasses.fields(self.training):
            value = getattr(self.training, field.name)
            typed(value, hints[field.name], f"task.train_{field.name}")


def described(task: TaskOptions) -> dict[str, Any]:
    """What evaluation tasks are, as plain data."""
    return {
        "name": task.source.name,
        **dataclasses.asdict(task.evaluation),
        **task.source.options,
    }


def task_options(group: Any) -> TaskOptions:
    """The group ``task`` of the settings.

    Raises:
        ValueError: a size is none, or two keys do not go together.
    """
    choice = named_options(group, "task")
    options = dict(choice.options)
    sizes = {key: options.pop(key, SAMPLING_DEFAULTS.get(key, 1)) for key in EPISODE_KEYS}
    evaluation = checked(EpisodeSize, sizes, "task")
    own = {key: options.pop(f"train_{key}", None) for key in (*EPISODE_KEYS, *BATCH_KEYS)}
    given = {
        key: typed(value, size_type(key), f"task.train_{key}")
        for key, value in own.items()
        if value is not None
    }
    augment = _named_list(options.pop("augment", None) or (), "task.augment")
    source = NamedOptions(choice.name, options)
    return TaskOptions(source, evaluation, _training(evaluation, given), augment)


def _named_list(value: Any, key: str) -> tuple[NamedOptions, ...]:
    """Names, or groups of a name and options."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{key} must be a list such as [crop,flip], got {value!r}; change it")
    groups = [{"name": each} if isinstance(each, str) else each for each in value]
    return tuple(named_options(group, f"{key}[{i}]") for i, group in enumerate(groups))


def size_type(key: str) -> Any:
    """What the size of a task or mini-batch called `key` may be."""
    owner = EpisodeSize if key in EPISODE_KEYS else BatchSize
    return typing.get_type_hints(owner, include_extras=True)[key]


OtherTasks: TypeAlias = str | tuple[str | Mapping[str, Any], ...] | Mapping[str, Mapping[str, Any]]
"""A task source, several, or label -> settings, in which ``name`` is that of the source.

Of several each is a name, or settings with one, which is its label, too.
"""


OTHER_TASKS = "eval.task"
"""Their key."""


def other_tasks(given: OtherTasks | None) -> dict[str, dict[str, Any]]:
    """Name -> settings of the tasks in ``eval.task``, which always have a ``name``.

    Raises:
        ValueError: a name does not do, or is there twice.
    """
    if isinstance(given, Mapping):
        found = {name: {"name": name, **settings} for name, settings in given.items()}
    else:
        each = [given] if isinstance(given, str) else list(given or ())
        groups = [{"name": one} if isinstance(one, str) else dict(one) for one in each]
        names = [str(group.get("name", "")) for group in groups]
        found = dict(zip(names, groups, strict=True))
        if len(found) < len(names):
            raise ValueError(
                f"{OTHER_TASKS} must name a task source once, got {names}; name the tasks: "
                f"{OTHER_TASKS}={{a:{{name:{names[0]}}},b:{{name:{names[0]}}}}}"
            )
    for name, settings in found.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
            raise ValueError(
                f"names in {OTHER_TASKS} must be of 1 to 40 letters, digits, _ and -, got "
                f"{name!r}; rename it"
            )
        typed(settings["name"], str, f"{OTHER_TASKS}.{name}.name")
    return found


def _training(evaluation: EpisodeSize, given: dict[str, Any]) -> Size:
    """The size in training, from the keys ``task.train_*`` that are given."""
    if "examples" not in given:
        for key in [key for key in BATCH_KEYS if key in given]:
            raise ValueError(
                f"task.train_{key} must be null without task.train_examples, which makes training "
                f"on mini-batches of all classes, got {given[key]}; remove it"
            )
        return dataclasses.replace(evaluation, **given)
    if clash := [key for key in EPISODE_KEYS if key in given]:
        raise ValueError(
            f"task.train_{clash[0]} must be null with task.train_examples, which makes training on "
            f"mini-batches instead of on few-shot tasks, got {given[clash[0]]}; remove "
            f"task.train_{clash[0]} (a method that is trained on mini-batches needs the other)"
        )
    return BatchSize(**given)
