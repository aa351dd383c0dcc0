"""Tasks that files give, as the tasks of an evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dmeta.tasks.fixed_tasks import FixedTasks
from dmeta.tasks.source import BatchSize
from dmeta.training.config import RunConfig
from dmeta.training.task_options import EPISODE_KEYS, TaskOptions


def with_fixed_size(
    config: RunConfig, ways: int | None, source: FixedTasks, changes: Mapping[str, Any]
) -> RunConfig:
    """The settings of `dmeta.training.other_tasks.with_tasks` with the size of given tasks.

    Args:
        config: the settings.
        ways: of a task that the run's network has outputs for; None: any number.
        source: the tasks.
        changes: of the settings, as the user wrote them.

    Raises:
        ValueError: the run's network cannot learn such tasks, or `changes` say a size.
    """
    for key in EPISODE_KEYS:
        if (value := changes.get(key)) is not None:
            raise ValueError(
                f"task.{key} must be null with fixed tasks, whose files say it, got {value}; "
                "remove it"
            )
    size, trained = source.size, config.task.evaluation.ways
    if ways is not None and size.ways != trained:
        raise ValueError(
            f"given tasks must have {trained} classes, the task.ways of training, for algorithm="
            f"{config.algorithm.name}, whose network has one output for each class, got "
            f"{size.ways}; train with task.ways={size.ways}, or choose a method whose output does "
            "not depend on the ways (protonet, ...)"
        )
    own = config.task.training
    training = own if isinstance(own, BatchSize) else size
    return dataclasses.replace(config, task=TaskOptions(config.task.source, size, training))


def num_given(source: FixedTasks, wanted: int | None) -> int:
    """How many tasks there are, each of which is evaluated once.

    Raises:
        ValueError: another number is wanted.
    """
    if wanted not in (None, source.num_tasks):
        raise ValueError(
            f"num_tasks must be {source.num_tasks}, the tasks that are given, or null, got "
            f"{wanted}; remove it"
        )
    return source.num_tasks
