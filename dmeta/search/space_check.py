"""Checks before the first trial that the settings at the ends of the space are valid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dmeta.metrics.declaration import Declaration
from dmeta.runtime.threads import torch_threads
from dmeta.search.space import Space, Value, probes
from dmeta.search.trial import source_key
from dmeta.search.user_objects import Configure, Own
from dmeta.tasks.source import TaskSource
from dmeta.training.build import make_source
from dmeta.training.config import RunConfig
from dmeta.training.other_tasks import with_other_tasks
from dmeta.training.settings_check import check_without_data
from dmeta.training.setup import prepare

_NOT_SEARCHED = (
    "compute",
    "runtime",
    "run_dir",
    "resume",
    "search",
    "checkpoint",
    "device",
    "joint_baseline",
)


class Checked(NamedTuple):
    """What was found out.

    Attributes:
        base: settings of the first point tried.
        metric: the primary one, by which trials are compared.
        sources: key of a task source (`dmeta.search.trial.source_key`) -> it.
    """

    base: RunConfig
    metric: Declaration
    sources: dict[str, TaskSource]


def checked_search(space: Space, configure: Configure, own: Own) -> Checked:
    """Make the settings of the ends of the space, and everything that these need.

    Args:
        space: what is searched.
        configure: makes settings of a point.
        own: the user's own objects, which these settings name.

    Raises:
        ValueError: trials could not be compared with each other, or one could not even begin; the
            message says with which values.
    """
    own.check(space)
    points = checked_points(space, configure)
    base = points[0][1]
    sources: dict[str, TaskSource] = {}
    others: dict[str, TaskSource] = {}
    if own.source is not None:
        sources[source_key(base)] = own.source
    metrics: list[Declaration] = []
    for point, config in points:
        source = _told(point, _source_of, config, sources)
        with torch_threads(config.compute.threads_per_worker):
            metrics.append(_told(point, _primary_metric, config, source, own, others))
        if metrics[-1] != metrics[0]:
            raise ValueError(
                "eval.metrics must begin with the same metric in all trials, which are compared by "
                f"it, got {metrics[0].name} and {metrics[-1].name}; set eval.metrics"
            )
    return Checked(base, metrics[0], sources)


def check_search_without_data(space: Space, configure: Configure) -> None:
    """As `checked_search`, as far as that shows where the data is not.

    Raises:
        ValueError: as there.
    """
    for point, config in checked_points(space, configure):
        with torch_threads(config.compute.threads_per_worker):
            _told(point, check_without_data, config)


def checked_points(
    space: Space, configure: Configure
) -> list[tuple[Mapping[str, Value], RunConfig]]:
    """The ends of the space and their settings, which can be compared.

    Raises:
        ValueError: as `checked_search`.
    """
    _check_keys(space)
    points = probes(space)
    base = configure(points[0])
    _check_steps(base)
    found: list[tuple[Mapping[str, Value], RunConfig]] = []
    for point in points:
        config = _told(point, configure, point)
        _check_comparable(base, config)
        found.append((point, config))
    return found


def _primary_metric(
    config: RunConfig, source: TaskSource, own: Own, others: dict[str, TaskSource]
) -> Declaration:
    """What a run of these settings is validated by; all else of it is tried, too.

    Args:
        config: settings of a point.
        source: of its tasks.
        own: the user's own objects.
        others: name in ``eval.task``, the same for all points -> its source, once it is made.
    """
    run = with_other_tasks(prepare(config, data=source, **own.parts), others)
    others |= {name: tasks.source for name, tasks in run.work.others.items()}
    return run.metrics[0].declaration


def _source_of(config: RunConfig, sources: dict[str, TaskSource]) -> TaskSource:
    key = source_key(config)
    if key not in sources:
        sources[key] = make_source(config)
    return sources[key]


def _told(point: Mapping[str, Value], function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns; its complaint says at which point of the space it is."""
    try:
        return function(*arguments)
    except ValueError as error:
        where = ", ".join(f"{key}={value}" for key, value in point.items())
        raise ValueError(f"{error} (in the space, at {where})") from error


def _check_keys(space: Space) -> None:
    if not space:
        raise ValueError(
            "a search must have a space, got none; give keys several values, such as "
            "'algorithm.inner_lr=tag(log,interval(0.01,1))' or outer.lr=0.001,0.003, or choose one "
            "with search/space=..."
        )
    for key in space.searched():
        if key.partition(".")[0] in _NOT_SEARCHED:
            raise ValueError(
                f"{key} must be the same in all trials, for it is no part of what is learned, got "
                "several values; give it one"
            )


def _check_steps(config: RunConfig) -> None:
    if config.validation_every == 0:
        raise ValueError(
            "eval.every must be >= 1 in a search, which compares trials after their validations, "
            "got 0; raise it, or leave it out"
        )


def _check_comparable(base: RunConfig, config: RunConfig) -> None:
    """Raises ValueError if the two would not be evaluated on the same tasks at the same steps."""
    for key, value in _compared(base).items():
        other = _compared(config).get(key)
        if other != value:
            raise ValueError(
                f"{key} must be the same in all trials, which are compared on the same tasks after "
                f"the same steps, got {value} and {other}; give it one value"
            )


def _compared(config: RunConfig) -> dict[str, Any]:
    task = {"name": config.task.source.name, **dataclasses.asdict(config.task.evaluation)}
    task |= config.task.source.options
    found = {f"task.{key}": value for key, value in task.items()}
    found |= {f"eval.{key}": value for key, value in dataclasses.asdict(config.eval).items()}
    return {**found, "steps": config.steps}
