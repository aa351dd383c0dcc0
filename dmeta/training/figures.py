"""Figures of a run, as PNG files. Data in, file out; it computes nothing but the functions to draw.

Lines differ by their dashes as well as by their colours (`dmeta.training.drawing`).

Letters: S support examples, N points at which a function is drawn, K inner steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dmeta.algorithms.algorithm import Algorithm
from dmeta.bilevel.solvers import recording
from dmeta.bilevel.types import Adapted, Examples, Kind, Params, Stage
from dmeta.runtime.protocol import Block
from dmeta.tasks.source import EpisodeSize, Split, TaskSource
from dmeta.training.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
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
from dmeta.training.evaluation import Curve, Evaluation, model_in_words
from dmeta.training.metrics import Row
from dmeta.training.supply import task_rng

Array = npt.NDArray[np.floating[Any]]

_MODELS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
_NUM_DRAWN = 400


@dataclass(frozen=True)
class FunctionPanel:
    """One task of 1-D regression and what a learner makes of it.

    Attributes:
        title: which task it is.
        support_x: [S] inputs the learner saw.
        support_y: [S] their targets.
        x: [N] inputs in rising order.
        truth: [N] the true function there.
        predictions: what (e.g. ``after 1 inner step``) -> [N] the learner's function there.
    """

    title: str
    support_x: Array
    support_y: Array
    x: Array
    truth: Array
    predictions: Mapping[str, Array]


def learning_curve(rows: Sequence[Row], path: Path, metric: str, kind: Kind) -> Path:
    """Training and validation scores against outer steps, and against the clock.

    Args:
        rows: lines of metrics.jsonl (see `dmeta.training.loop`).
        path: the PNG to write.
        metric: the key to draw: ``accuracy``, ``mse`` or ``loss`` (the last of training alone).
        kind: of the tasks; what ``loss`` means follows from it.

    Returns: `path`.
    Raises: ValueError: no row has the metric.
    """
    rows = [row for row in rows if _is_number(row.get(metric))]
    if not rows:
        raise ValueError(
            f"a learning curve must have at least one row with {metric!r}, got none; train for "
            "log_every steps or more"
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
    by_step.set_ylabel(_axis_label(metric, kind))
    _scale(by_step, metric, kind, [row[metric] for row in rows])
    figure.suptitle(f"{_words(metric, kind)} in training{_of_validation(val)}", fontsize=11)
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
    (metric,) = metrics
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
    kind: Kind = "classification" if metric == "accuracy" else "regression"
    axes.set_ylabel(_axis_label(metric, kind))
    _scale(axes, metric, kind, means)
    of = " and ".join(f"{num_tasks} {split} tasks" for split, num_tasks in tasks)
    models = {model_in_words(e.model, e.num_models) for e in evaluations.values()}
    band = f"mean and 95% confidence band, {', '.join(sorted(models))}"
    figure.suptitle(f"{_words(metric, kind)} on {of}\n{band}", fontsize=11)
    legend_below(figure, axes)
    return save(figure, path)


def adapted_functions(learners: Mapping[str, Sequence[FunctionPanel]], path: Path) -> Path:
    """The learnt functions before and after adaptation: a row per learner, a column per task.

    As in Finn et al. 2017 (arXiv:1703.03400), figure 2. Above each panel: the mean squared error
    on the drawn points, before and after.

    Args:
        learners: name -> its panels, of the same tasks in the same order.
        path: the PNG to write.

    Returns: `path`.
    Raises: ValueError: no panels, or learners with different numbers of them.
    """
    counts = {len(panels) for panels in learners.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"every learner must have the same tasks, at least one, got {sorted(counts)} panels; "
            "call function_panels with the same seed and num_tasks for all"
        )
    figure = new_figure(1.5 + 2.4 * len(learners))
    grid = figure.subplots(len(learners), counts.pop(), sharex=True, sharey="col", squeeze=False)
    for row, (name, panels) in zip(grid, learners.items(), strict=True):
        for axes, panel in zip(row, panels, strict=True):
            _draw_panel(axes, panel)
        row[0].set_ylabel(f"{name}\ny")
    for axes in grid[-1]:
        axes.set_xlabel("x")
    shots = len(next(iter(learners.values()))[0].support_x)
    figure.suptitle(
        f"One function per task, {shots} support point{'s' if shots != 1 else ''}: "
        "before and after adaptation\n"
        "MSE: of each panel's one task, before → after the last inner step",
        fontsize=11,
    )
    legend_below(figure, grid[0][0], columns=6)
    return save(figure, path)


def function_panels(
    algorithm: Algorithm,
    meta_params: Params,
    source: TaskSource,
    size: EpisodeSize,
    seed: int,
    steps: Sequence[int] = (0, 1, 10),
    num_tasks: int = 3,
    split: Split = "test",
) -> list[FunctionPanel]:
    """Adapt to a few tasks of 1-D regression and tabulate the functions.

    With the seed of the evaluation these are its first tasks.

    Args:
        algorithm: a learner with inner steps.
        meta_params: its meta-parameters, on the CPU.
        source: a regression source with one input and one output.
        size: of the support set; the queries are those that are drawn.
        seed: of the tasks.
        steps: after how many inner steps the function is shown.
        num_tasks: how many panels.
        split: what the tasks are of.

    Raises:
        ValueError: the source is not 1-D regression, or the algorithm has no inner steps.
    """
    if (source.kind, source.input_shape, source.num_outputs(size.ways)) != ("regression", (1,), 1):
        raise ValueError(
            "functions can be drawn of regression with one input and one output, got "
            f"{source.kind} with inputs of shape {source.input_shape}; choose task=sinusoid"
        )
    learner: Any = algorithm
    learner = dataclasses.replace(learner, network=algorithm.network.to("cpu", training=False))
    panels = []
    for slot in range(num_tasks):
        rng = task_rng(seed, Block(split, 0, 0, slot, 1), slot)
        panels.append(_panel(learner, meta_params, source, size, rng, steps, split, slot))
    return panels


def _panel(
    learner: Algorithm,
    meta_params: Params,
    source: TaskSource,
    size: EpisodeSize,
    rng: np.random.Generator,
    steps: Sequence[int],
    split: Split,
    slot: int,
) -> FunctionPanel:
    task = source.draw(split, dataclasses.replace(size, queries=_NUM_DRAWN), rng)
    order = np.argsort(task.query_x[:, 0])
    support = Examples(
        source.preprocess(torch.from_numpy(task.support_x)), torch.from_numpy(task.support_y)
    )
    path: list[Adapted] = []
    query = source.preprocess(torch.from_numpy(task.query_x[order]))
    with torch.no_grad():
        stage = Stage(training=False, ways=size.ways, inner_steps=max(steps))
        learner.adapt(meta_params, support, recording(path.append), stage)
        if not path:
            raise ValueError(
                f"the algorithm must adapt by inner steps, got {type(learner).__name__}, which "
                "has none; choose algorithm=maml"
            )
        predictions = {_after(k): learner.predict(path[k], query)[:, 0].numpy() for k in steps}
    return FunctionPanel(
        title=f"{split} task {slot + 1}",
        support_x=task.support_x[:, 0].astype(np.float64),
        support_y=task.support_y[:, 0].astype(np.float64),
        x=task.query_x[order, 0].astype(np.float64),
        truth=task.query_y[order, 0].astype(np.float64),
        predictions=predictions,
    )


def _after(steps: int) -> str:
    if steps == 0:
        return "before adaptation"
    return f"after {steps} inner step{'s' if steps > 1 else ''}"


def _draw_panel(axes: Axes, panel: FunctionPanel) -> None:
    axes.plot(panel.x, panel.truth, color=GREY, linewidth=4.0, alpha=0.55, label="true function")
    styles = ((ORANGE, ":"), (GREEN, "--"), (BLUE, "-"), (PURPLE, "-."))
    for (name, y), (colour, dashes) in zip(panel.predictions.items(), styles, strict=False):
        axes.plot(panel.x, y, color=colour, linestyle=dashes, linewidth=1.7, label=name)
    axes.plot(
        panel.support_x, panel.support_y, linestyle="none", marker="o", markersize=5.5,
        markerfacecolor=BLACK, markeredgecolor="white", label="support points", zorder=5,
    )  # fmt: skip
    errors = [float(np.mean((y - panel.truth) ** 2)) for y in panel.predictions.values()]
    axes.set_title(f"{panel.title}\nMSE {errors[0]:.3g} → {errors[-1]:.3g}", fontsize=9.5)
    axes.grid(color="#E4E4E4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_scores(
    axes: Axes, train: Sequence[Row], val: Sequence[Row], metric: str, key: str, divisor: float
) -> None:
    factor = _factor(metric)
    if train:
        x = [row[key] / divisor for row in train]
        y = [factor * row[metric] for row in train]
        axes.plot(x, y, color=ORANGE, linewidth=0.8, label="training tasks, adapted as in training")
    if val:
        x = [row[key] / divisor for row in val]
        curve = Curve(tuple(row[metric] for row in val), tuple(row["ci95"] for row in val))
        _draw_curve(axes, curve, metric, "validation tasks, adapted as at evaluation", BLUE, "-", x)
    frame(axes)


def _draw_curve(
    axes: Axes,
    curve: Curve,
    metric: str,
    label: str,
    colour: str,
    dashes: str,
    x: Sequence[float] | None = None,
) -> None:
    factor = _factor(metric)
    mean, ci95 = factor * np.array(curve.mean), factor * np.array(curve.ci95)
    at = np.arange(len(mean)) if x is None else np.array(x)
    low = mean - ci95
    if metric != "accuracy":  # a logarithmic axis has no room for an interval that reaches 0
        low = np.maximum(low, 0.02 * mean)
    marker = "o" if len(mean) <= 25 else None
    axes.plot(
        at, mean, color=colour, linestyle=dashes, linewidth=1.8, marker=marker, markersize=4.5,
        label=label,
    )  # fmt: skip
    axes.fill_between(at, low, mean + ci95, color=colour, alpha=0.2, linewidth=0)
    frame(axes)


def _scale(axes: Axes, metric: str, kind: Kind, values: Sequence[float]) -> None:
    """Logarithmic for squared errors that are all positive; accuracies never past 0 and 100%."""
    finite = [value for value in values if math.isfinite(value)]
    if metric == "accuracy":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2.0), min(high, 102.0))
    elif kind == "regression" and finite and min(finite) > 0:
        axes.set_yscale("log")
        plain_ticks(axes.yaxis, decades=math.log10(max(finite) / min(finite)))


def _clock(seconds: float) -> tuple[str, float]:
    """A unit in which `seconds` reads well, and its length in seconds."""
    if seconds < 600:
        return "s", 1.0
    return ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


def _of_validation(val: Sequence[Row]) -> str:
    if not val:
        return ""
    tasks = " or ".join(str(n) for n in sorted({row["num_tasks"] for row in val}))
    return (
        f" and on {tasks} validation tasks\nvalidation: mean and 95% confidence band, single model"
    )


def _words(metric: str, kind: Kind) -> str:
    if metric == "loss":
        return "Cross-entropy" if kind == "classification" else "Loss"
    return {"accuracy": "Accuracy", "mse": "Mean squared error"}.get(metric, metric)


def _axis_label(metric: str, kind: Kind) -> str:
    units = {"accuracy": " (%)", "loss": " (nats)" if kind == "classification" else ""}
    return f"{_words(metric, kind).lower()} on query sets{units.get(metric, '')}"


def _factor(metric: str) -> float:
    return 100.0 if metric == "accuracy" else 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
