"""The augmentation of a run's training images: that which was passed, or those that are named."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dmeta.options import NamedOptions
from dmeta.tasks.augmentation.augment import (
    Augmentation,
    ImageTransform,
    augmentation_of,
    check_augment,
)
from dmeta.tasks.source import Split, TaskSource
from dmeta.training.config import RunConfig


def with_augment_name(config: RunConfig, given: ImageTransform | None) -> RunConfig:
    """Settings that name the augmentation that a user has passed from Python.

    Raises:
        ValueError: a name in the settings is not known, an option is wrong, or both are given.
    """
    if given is None:
        return config
    name = str(getattr(given, "__name__", type(given).__name__))
    own = (NamedOptions(name, {}),)
    if config.task.augment not in ((), own):  # own: of a run that is resumed
        raise ValueError(
            "task.augment must not be set together with augment=..., got "
            f"{[each.name for each in config.task.augment]}; leave one out"
        )
    return dataclasses.replace(config, task=dataclasses.replace(config.task, augment=own))


def check_named(
    config: RunConfig, given: ImageTransform | None, splits: Sequence[Split] | None
) -> None:
    """Raises ValueError if a named augmentation is not known; reads no data."""
    if given is None and (splits is None or "train" in splits):
        check_augment(config.task.augment)


def augmentation_in(
    config: RunConfig, given: ImageTransform | None, source: TaskSource, splits: Sequence[Split]
) -> Augmentation | None:
    """What the training images of a run are changed by; None: nothing, or no training.

    Args:
        config: settings.
        given: what a user has passed from Python.
        source: of the tasks.
        splits: of which tasks are drawn.

    Raises:
        ValueError: the source is of no images, or an option is out of its range.
    """
    if "train" not in splits:
        return None
    return augmentation_of(config.task.augment, given, source)
