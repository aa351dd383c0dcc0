"""Which metrics are meant: names and a user's own, for a kind of tasks. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dmeta.metrics import METRICS
from dmeta.metrics.metric import Metric
from dmeta.registry import nearest

if TYPE_CHECKING:
    from dmeta.bilevel.types import Kind


def name_of(metric: str | Metric) -> str:
    """The name of a metric that is named, or of one's own.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(metric, str | Metric):
        return metric if isinstance(metric, str) else metric.name
    raise ValueError(
        "metrics must be names of registered metrics or dmeta.Metric objects, got "
        f"{type(metric).__name__}; wrap a function: dmeta.Metric(name, function, higher_is_better)"
    )


def check_names(names: Sequence[str], key: str) -> None:
    """Refuse no metric at all, and one twice.

    Raises:
        ValueError: with the key.
    """
    if not names:
        raise ValueError(f"{key} must have a metric, got none; name one, or set null")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{key} must have each metric once, got {twice[0]} twice; remove one")


def check_registered(names: Sequence[str], key: str) -> None:
    """Refuse names that are not registered; imports no metric.

    Raises:
        ValueError: with the key and the nearest name.
    """
    known = list(METRICS)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"{key} must be of {', '.join(sorted(known))}, got {unknown[0]!r}"
            f"{nearest(unknown[0], known)}; change it, or pass your own from Python (metrics=)"
        )


def chosen_metrics(metrics: Sequence[str | Metric], kind: Kind, key: str) -> tuple[Metric, ...]:
    """The metrics of tasks of a kind.

    Args:
        metrics: names, or a user's own.
        kind: of the tasks.
        key: where they were chosen, for messages.

    Raises:
        ValueError: there is no such metric, or it is not one of such tasks; or a user's own has the
            name of a registered one.
    """
    names = [name_of(each) for each in metrics]
    check_names(names, key)
    check_registered([each for each in metrics if isinstance(each, str)], key)
    for each in metrics:
        if isinstance(each, Metric) and each.name in METRICS:
            raise ValueError(
                f"{key} must not have a metric of your own with the name of a registered one, got "
                f"{each.name!r}; rename it"
            )
    found = tuple(_registered(m) if isinstance(m, str) else m for m in metrics)
    for metric in found:
        if metric.kind not in (None, kind):
            raise ValueError(
                f"{key} must be metrics of {kind} tasks ({', '.join(_names_for(kind))}), got "
                f"{metric.name}, which is of {metric.kind}; change it"
            )
    return found


def _registered(name: str) -> Metric:
    metric = METRICS[name].make()
    if metric.name != name:
        raise ValueError(
            f"an entry point of group dmeta.metrics must have the name of its metric, got {name!r} "
            f"of metric {metric.name!r}; rename one"
        )
    return metric


def _names_for(kind: Kind) -> list[str]:
    built_in = {name: METRICS[name].make() for name in METRICS.builtin}
    return [name for name, metric in built_in.items() if metric.kind == kind]
