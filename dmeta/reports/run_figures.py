"""Figures of a run's numbers, as PNG files. Data in, file out.

Lines differ by their dashes as well as by their colours (`dmeta.reports.drawing`).

Letters: K inner steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dmeta.metrics.declaration import Declaration
from dmeta.reports.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    frame,
    legend_below,
    new_figure,
    plain_ticks,
    save,
)
from dmeta.runs.metrics import Row
from dmeta.training.evaluation import Curve, Evaluation, model_text

_MODELS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)


def learning_curve(rows: Sequence[Row], path: Path, metric: Declaration) -> Path:
    """Training and validation scores against outer steps, and against the clock.

    Args:
        rows: lines of metrics.jsonl (see `dmeta.training.metric_rows`).
        path: the PNG to write.
        metric: what to draw; rows of training have it if it is the default of its kind of tasks.

    Returns: `path`.
    Raises: ValueError: no row has the metric.
    """
    rows = [row for row in rows if _is_number(row.get(metric.name))]
    if not rows:
        raise ValueError(
            f"a learning curve must have at least one row with {metric.name!r}, got none; train "
            "for log_every steps or more"
        )
    train = [row for row in rows if row["event"] == "train"]
    val = [row for row in rows if row["event"] == "val"]
    unit, divisor = _clock(max(row["seconds"] for row in rows))
    figure = new_figure(4.2)
    by_step, by_clock = figure.subplots(1, 2, sharey=True)
    _draw_scores(by_step, train, val, metric, "step", 1.0)
    _draw_scores(by_clock, train, val, metric, "seconds", divisor)
    by_step.set_xlabel("outer step")
    by_clock.set_xlabel(f"wall-clock time, evaluations included ({unit})")
    by_step.set_ylabel(_axis_label(metric))
    _scale(by_step, metric, [row[metric.name] for row in rows])
    figure.suptitle(f"{_words(metric)}{_shown_of(train, val)}", fontsize=11)
    legend_below(figure, by_step)
    return save(figure, path)


def inner_step_curve(evaluations: Mapping[str, Evaluation], path: Path) -> Path:
    """The metric after 0, 1, ..., K inner steps, for one or several models.

    Args:
        evaluations: name of the model -> its evaluation; all of one metric.
        path: the PNG to write.

    Returns: `path`.
    Raises: ValueError: no evaluation, or of different metrics.
    """
    metrics = sorted({evaluation.metric for evaluation in evaluations.values()})
    if len(metrics) != 1:
        raise ValueError(
            "evaluations must be of one metric to share an axis, got "
            f"{' and '.join(metrics) or 'none'}; draw one figure for each metric"
        )
    metric = next(iter(evaluations.values())).declared
    tasks = sorted({(e.split, e.num_tasks) for e in evaluations.values()})
    figure = new_figure(4.6)
    axes = figure.subplots()
    means: list[float] = []
    for i, (name, evaluation) in enumerate(evaluations.items()):
        label = name if len(tasks) == 1 else f"{name} ({evaluation.num_tasks} {evaluation.split})"
        curve, apart = evaluation.transductive, evaluation.non_transductive
        differ = not np.allclose(curve.mean, apart.mean, rtol=1e-6, equal_nan=True)
        drawn = {
            f"{label}, transductive": (curve, "-"),
            f"{label}, non-transductive": (apart, "--"),
        }
        for text, (line, dashes) in (drawn if differ else {label: (curve, "-")}).items():
            _draw_curve(axes, line, metric, text, _MODELS[i % len(_MODELS)], dashes)
            means += line.mean
    axes.set_xlabel("inner steps on the support set")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(_axis_label(metric))
    _scale(axes, metric, means)
    of = " and ".join(f"{num_tasks} {split} tasks" for split, num_tasks in tasks)
    models = {model_text(e.model, e.num_models) for e in evaluations.values()}
    band = f"mean and 95% confidence band, {', '.join(sorted(models))}"
    figure.suptitle(f"{_words(metric)} on {of}\n{band}", fontsize=11)
    legend_below(figure, axes)
    return save(figure, path)


def _draw_scores(
    axes: Axes,
    train: Sequence[Row],
    val: Sequence[Row],
    metric: Declaration,
    key: str,
    divisor: float,
) -> None:
    factor = _factor(metric)
    if train:
        x = [row[key] / divisor for row in train]
        y = [factor * row[metric.name] for row in train]
        axes.plot(x, y, color=ORANGE, linewidth=0.8, label="training tasks, adapted as in training")
    if val:
        x = [row[key] / divisor for row in val]
        curve = Curve(tuple(row[metric.name] for row in val), tuple(row["ci95"] for row in val))
        _draw_curve(axes, curve, metric, "validation tasks, adapted as at evaluation", BLUE, "-", x)
    frame(axes)


def _draw_curve(
    axes: Axes,
    curve: Curve,
    metric: Declaration,
    label: str,
    colour: str,
    dashes: str,
    x: Sequence[float] | None = None,
) -> None:
    factor = _factor(metric)
    mean, ci95 = factor * np.array(curve.mean), factor * np.array(curve.ci95)
    at = np.arange(len(mean)) if x is None else np.array(x)
    low = mean - ci95
    if metric.is_open_error:  # a logarithmic axis has no room for an interval that reaches 0
        low = np.maximum(low, 0.02 * mean)
    marker = "o" if len(mean) <= 25 else None
    axes.plot(
        at, mean, color=colour, linestyle=dashes, linewidth=1.8, marker=marker, markersize=4.5,
        label=label,
    )  # fmt: skip
    axes.fill_between(at, low, mean + ci95, color=colour, alpha=0.2, linewidth=0)
    frame(axes)


def _scale(axes: Axes, metric: Declaration, values: Sequence[float]) -> None:
    """Logarithmic for errors that are all positive; fractions never past 0 and 100%."""
    finite = [value for value in values if math.isfinite(value)]
    if metric.is_fraction:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2.0), min(high, 102.0))
    elif metric.is_open_error and finite and min(finite) > 0:
        axes.set_yscale("log")
        plain_ticks(axes.yaxis, decades=math.log10(max(finite) / min(finite)))


def _clock(seconds: float) -> tuple[str, float]:
    """A unit in which `seconds` reads well, and its length in seconds."""
    if seconds < 600:
        return "s", 1.0
    return ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


def _shown_of(train: Sequence[Row], val: Sequence[Row]) -> str:
    if not val:
        return " in training"
    tasks = " or ".join(str(n) for n in sorted({row["num_tasks"] for row in val}))
    both = " in training and" if train else ""
    return (
        f"{both} on {tasks} validation tasks\nvalidation: mean and 95% confidence band, single "
        "model"
    )


def _words(metric: Declaration) -> str:
    return metric.words[0].upper() + metric.words[1:]


def _axis_label(metric: Declaration) -> str:
    unit = "%" if metric.is_fraction else metric.shown_unit
    return f"{metric.words} on query sets" + (f" ({unit})" if unit else "")


def _factor(metric: Declaration) -> float:
    return 100.0 if metric.is_fraction else 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
