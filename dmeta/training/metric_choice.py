"""The metrics of a run: those that were passed or named, of its source, or of its kind of tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from dmeta.metrics import METRICS, default_metric
from dmeta.metrics.choice import chosen_metrics, name_of
from dmeta.metrics.metric import Metric, scores
from dmeta.tasks.source import TaskSource, has_metrics
from dmeta.training.config import RunConfig

KEY = "eval.metrics"


def metrics_of(
    config: RunConfig, source: TaskSource, given: Sequence[str | Metric] | None
) -> tuple[Metric, ...]:
    """The metrics of a run's validation and test tasks, the primary one first; tried if own.

    Args:
        config: its settings.
        source: of its tasks.
        given: what a user has passed from Python, instead of ``eval.metrics``.

    Raises:
        ValueError: they are none of such tasks; the message says why.
    """
    if given is not None:
        found = chosen_metrics(given, source.kind, "metrics")
    elif config.eval.metrics is not None:
        found = chosen_metrics(config.eval.metrics, source.kind, KEY)
    elif has_metrics(source):
        found = chosen_metrics(tuple(source.metrics), source.kind, "metrics of the task source")
    else:
        return (default_metric(source.kind),)
    listed = [name_of(each) for each in source.metrics] if has_metrics(source) else []
    for metric in found:
        if metric.of_source and metric.name not in listed:
            raise ValueError(
                f"metric {metric.name} must be of a task source that lists it, because it takes "
                f"the unit of its targets for granted, got {config.task.source.name}; choose "
                "another metric"
            )
        if metric.name not in METRICS.builtin:
            _try(metric, source, config.task.evaluation.ways)
    return found


def is_own(given: Sequence[str | Metric] | None) -> bool:
    """Whether there are metrics that no settings can name."""
    return any(isinstance(each, Metric) for each in given or ())


def with_metric_names(config: RunConfig, given: Sequence[str | Metric] | None) -> RunConfig:
    """Settings that name the metrics that a user has passed from Python."""
    if given is None:
        return config
    names = tuple(map(name_of, given))
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, metrics=names))


def _try(metric: Metric, source: TaskSource, ways: int) -> None:
    """Raises ValueError if the metric cannot be computed, or is no scalar."""
    outputs, queries = source.num_outputs(ways), 2 * ways
    predictions = torch.linspace(-1, 1, queries * outputs).reshape(queries, outputs)
    is_classification = source.kind == "classification"
    targets = torch.arange(queries) % ways if is_classification else -predictions
    try:
        value = scores(metric, predictions, targets, ways)
        shape = tuple(value.shape)
    except Exception as error:  # whatever a user's function raises
        raise ValueError(
            f"metric {metric.name} must take predictions {list(predictions.shape)}, targets "
            f"{list(targets.shape)} and the ways, and return a number, got "
            f"{type(error).__name__}: {error}; correct its function"
        ) from error
    if shape != ():
        raise ValueError(
            f"metric {metric.name} must return a number for a task, got shape {list(shape)}; end "
            "its function with .mean()"
        )
