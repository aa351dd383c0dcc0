"""The settings of the tasks of a run: of which source, and how large."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveInt

from dmeta.options import NamedOptions, check_fields, checked, named_options
from dmeta.tasks.source import BatchSize, EpisodeSize, Size
from dmeta.typed_values import typed

EPISODE_KEYS = ("ways", "shots", "queries")
BATCH_KEYS = ("examples", "classes")

SIZE_KEYS = (*EPISODE_KEYS, *(f"train_{key}" for key in (*EPISODE_KEYS, *BATCH_KEYS)))
"""Keys of ``task`` that a run reads, whatever its task source."""


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks, and how large.

    Attributes:
        source: the task source and its own options (data root, split, ...).
        evaluation: size of a task at evaluation.
        training: size of a task, or of a mini-batch, in training.
    """

    source: NamedOptions
    evaluation: EpisodeSize
    training: Size

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_fields(self.evaluation, "task")
        for field in dataclasses.fields(self.training):
            hint = PositiveInt | None if field.name == "classes" else PositiveInt
            typed(getattr(self.training, field.name), hint, f"task.train_{field.name}")


def task_options(group: Any) -> TaskOptions:
    """The group ``task`` of the settings.

    Raises:
        ValueError: a size is none, or two keys do not go together.
    """
    choice = named_options(group, "task")
    options = dict(choice.options)
    sizes: dict[str, Any] = {key: options.pop(key, 1) for key in EPISODE_KEYS}
    evaluation = checked(EpisodeSize, sizes, "task")
    own = {key: options.pop(f"train_{key}", None) for key in (*EPISODE_KEYS, *BATCH_KEYS)}
    given = {
        key: typed(value, PositiveInt, f"task.train_{key}")
        for key, value in own.items()
        if value is not None
    }
    return TaskOptions(NamedOptions(choice.name, options), evaluation, _training(evaluation, given))


def _training(evaluation: EpisodeSize, given: dict[str, int]) -> Size:
    """The size in training, from the keys ``task.train_*`` that are given."""
    if "examples" not in given:
        if "classes" in given:
            raise ValueError(
                "task.train_classes must be null without task.train_examples, which makes training "
                f"on mini-batches of all classes, got {given['classes']}; remove it"
            )
        return dataclasses.replace(evaluation, **given)
    if clash := [key for key in EPISODE_KEYS if key in given]:
        raise ValueError(
            f"task.train_{clash[0]} must be null with task.train_examples, which makes training on "
            f"mini-batches instead of on few-shot tasks, got {given[clash[0]]}; remove one of them"
        )
    return BatchSize(**given)
