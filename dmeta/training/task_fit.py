"""Whether a run's method, task source and sizes go together: checked before anything is started."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from dmeta.algorithms.algorithm import embeds, kinds, trains_on_batches
from dmeta.options import NamedOptions
from dmeta.tasks.sizes import key
from dmeta.tasks.source import (
    BatchSize,
    EpisodeSize,
    Split,
    TaskSource,
    draws_batches,
    draws_of_several,
    is_fixed,
    samplers_of,
)
from dmeta.training.config import RunConfig


def check_method(config: RunConfig, source: TaskSource, method: Any) -> None:
    """Raises ValueError if the method cannot learn tasks of this kind, or not from such a unit."""
    if source.kind not in kinds(method):
        raise ValueError(
            f"algorithm={config.algorithm.name} must have {' or '.join(kinds(method))} tasks, got "
            f"{source.kind} (task={config.task.source.name}); choose another task or algorithm"
        )
    training, name = config.task.training, config.algorithm.name
    if trains_on_batches(method) and isinstance(training, EpisodeSize):
        raise ValueError(
            f"task.train_examples must be given for algorithm={name}, which is trained on "
            "mini-batches of all classes, got null; set task.train_examples=16"
        )
    if isinstance(training, BatchSize) and not trains_on_batches(method):
        raise ValueError(
            f"task.train_examples must be null for algorithm={name}, which is trained on few-shot "
            f"tasks, got {training.examples}; set task.train_examples=null"
        )


def with_check_sum(config: RunConfig, source: TaskSource) -> RunConfig:
    """Settings that say which data the run is of, where its source can tell, wherever it lies."""
    sha256 = getattr(source, "sha256", None)
    noted = {} if sha256 is None else {"sha256": sha256}
    noted = getattr(source, "noted_options", noted)
    if not noted:
        return config
    named = config.task.source
    named = NamedOptions(named.name, {**named.options, **noted})
    return dataclasses.replace(config, task=dataclasses.replace(config.task, source=named))


def with_classes(config: RunConfig, source: TaskSource, splits: Sequence[Split]) -> RunConfig:
    """Settings that say how many classes mini-batches are of, if training is on such."""
    size = config.task.training
    if not isinstance(size, BatchSize) or (size.classes is not None and "train" not in splits):
        return config
    if not draws_batches(source):
        raise ValueError(
            f"algorithm={config.algorithm.name} must have a task source that draws mini-batches "
            f"(dmeta.tasks.source.DrawsBatches), got {config.task.source.name}, which does not; "
            "choose another task or algorithm"
        )
    found = source.num_classes("train")
    if size.classes not in (None, found):
        raise ValueError(
            f"task.train_classes must be {found}, the classes of the training split, or null, got "
            f"{size.classes}; remove it"
        )
    sizes = source.class_sizes("train") if draws_of_several(source) else None
    if sizes is not None and len(sizes) == 1:
        sizes = None
    if size.class_sizes not in (None, sizes):
        raise ValueError(
            f"task.train_class_sizes must be {list(sizes or ()) or 'null'}, the classes of each "
            f"data set in the training split, or null, got {list(size.class_sizes or ())}; remove "
            "it"
        )
    size = dataclasses.replace(size, classes=found, class_sizes=sizes)
    return dataclasses.replace(config, task=dataclasses.replace(config.task, training=size))


def check_tasks(
    config: RunConfig, source: TaskSource, method: Any, splits: Sequence[Split]
) -> None:
    """Raises ValueError if such tasks cannot be drawn, or the method cannot learn them."""
    for split in splits:
        size = config.task.training if split == "train" else config.task.evaluation
        if source.kind == "classification" and size.ways < 2:
            raise ValueError(
                "ways must be >= 2 for classification (of a single class every prediction is "
                f"right), got {size.ways}; raise {key(split, 'ways')}"
            )
        if isinstance(size, EpisodeSize):
            if not (is_fixed(size) or size.sampler in samplers_of(source)):
                raise ValueError(
                    f"sampler must be {' or '.join(samplers_of(source))} for this source, got "
                    f"{size.sampler}; change {key(split, 'sampler')}, or list it in the source's "
                    "samplers and draw such tasks"
                )
            source.check(split, size)
        if source.kind == "classification" and source.num_outputs(size.ways) < size.ways:
            raise ValueError(
                f"the source must have at least one output for each of {size.ways} ways, got "
                f"{source.num_outputs(size.ways)}; correct its num_outputs, or lower "
                f"{key(split, 'ways')}"
            )
    if not embeds(method) and config.task.training.ways != config.task.evaluation.ways:
        raise ValueError(
            f"task.train_ways must equal task.ways ({config.task.evaluation.ways}) for an "
            f"algorithm whose output layer has one unit per way, got {config.task.training.ways}; "
            "remove task.train_ways"
        )
