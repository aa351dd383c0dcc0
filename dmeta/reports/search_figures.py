"""Figures of a search, as PNG files: points and scores. Data in, file out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from dmeta.reports.drawing import BLACK, BLUE, GREY, RED, frame, new_figure, plain_ticks, save
from dmeta.search.space import Choice, Dimension, Interval, Space
from dmeta.search.trial_history import Event, best_so_far
from dmeta.search.trial_reports import ScoreMode
from dmeta.search.trials import TrialRow

_PREFERRED = ("algorithm.inner_lr", "outer.lr")
_COLOURS = "viridis"


def search_figures(
    rows: Sequence[TrialRow],
    best: TrialRow,
    events: Sequence[Event],
    space: Space,
    metric: str,
    mode: ScoreMode,
    folder: Path,
) -> list[Path]:
    """Draw all figures for which there is something to show.

    Args:
        rows: the trials.
        best: the best of them.
        events: what they reported.
        space: that was searched.
        metric: of the scores: ``accuracy`` or ``mse``.
        mode: which way these are better.
        folder: where to write.

    Returns: the PNG files.
    """
    scored = [row for row in rows if row.score is not None and row.status != "diverged"]
    lost = [row for row in rows if row.status == "diverged"]
    drawn = []
    dimensions = _drawn_dimensions(space, rows)
    colours = _Colours(scored, metric, mode)
    if pair := _two_numbers(dimensions):
        path = folder / "values.png"
        drawn.append(_plane(scored, lost, best, dimensions, pair, colours, path))
    if len(dimensions) > 1:
        drawn.append(_parallel(scored, best, dimensions, colours, folder / "parallel.png"))
    drawn.append(_progress(events, metric, mode, folder / "best_so_far.png"))
    drawn.append(_curves(rows, best, events, metric, folder / "learning_curves.png"))
    return drawn


class _Colours:
    """From scores to colours: the better, the brighter; errors by their logarithm."""

    def __init__(self, rows: Sequence[TrialRow], metric: str, mode: ScoreMode) -> None:
        scores = [row.score for row in rows if row.score is not None]
        low, high = min(scores, default=0.0), max(scores, default=1.0)
        norm = Normalize if metric == "accuracy" or low <= 0 else LogNorm
        name = _COLOURS if mode == "max" else f"{_COLOURS}_r"
        self.map = ScalarMappable(norm(low, high), colormaps[name])
        self.label = f"validation {metric}"

    def of(self, row: TrialRow) -> Any:
        assert row.score is not None
        return self.map.to_rgba(np.asarray(row.score))

    def draw_bar(self, figure: Figure, axes: Axes) -> None:
        bar = figure.colorbar(self.map, ax=axes, label=self.label)
        low, high = self.map.get_clim()
        if isinstance(self.map.norm, LogNorm) and low is not None and high is not None:
            plain_ticks(bar.ax.yaxis, math.log10(high / low))


def _drawn_dimensions(space: Space, rows: Sequence[TrialRow]) -> dict[str, Dimension]:
    """Of the keys that were tried; one that is searched under several conditions, on one axis."""
    found: dict[str, Dimension] = {}
    for key, dimension in space.every_dimension():
        if any(key in row.point for row in rows):
            found[key] = _joined(found[key], dimension) if key in found else dimension
    return found


def _joined(one: Dimension, other: Dimension) -> Dimension:
    """A dimension that has the values of both."""
    if _is_numeric(one) and _is_numeric(other) and Interval in (type(one), type(other)):
        ends = [*one.ends, *other.ends]
        is_log = min(ends) > 0 and (_is_log(one) or _is_log(other))
        return one if min(ends) == max(ends) else Interval(min(ends), max(ends), is_log)
    values = [*(one.values or one.ends), *(other.values or other.ends)]
    return Choice(tuple({(type(value), repr(value)): value for value in values}.values()))


def _two_numbers(dimensions: Mapping[str, Dimension]) -> tuple[str, str] | None:
    """The keys to draw against each other: the two learning rates, if they were searched."""
    numbers = [key for key, dimension in dimensions.items() if _is_numeric(dimension)]
    chosen = [key for key in _PREFERRED if key in numbers]
    chosen += [key for key in numbers if key not in chosen]
    return (chosen[0], chosen[1]) if len(chosen) > 1 else None


def _is_numeric(dimension: Dimension) -> bool:
    if isinstance(dimension, Interval):
        return True
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in dimension.values)


def _is_log(dimension: Dimension) -> bool:
    """Whether the values are best seen on a logarithmic axis."""
    if isinstance(dimension, Interval):
        return dimension.log
    numbers = sorted(map(float, dimension.values))
    return numbers[0] > 0 and numbers[-1] / numbers[0] >= 10


def _plane(
    rows: Sequence[TrialRow],
    lost: Sequence[TrialRow],
    best: TrialRow,
    dimensions: Mapping[str, Dimension],
    pair: tuple[str, str],
    colours: _Colours,
    path: Path,
) -> Path:
    figure = new_figure(5.0)
    axes = figure.subplots()
    frame(axes)
    x, y = pair
    for row in rows:
        if x in row.point and y in row.point:
            size = 45 if row.status == "finished" else 22
            fill = [colours.of(row)]
            edge, width = (BLACK, 1.8) if row is best else ("none", 0.0)
            axes.scatter(row.point[x], row.point[y], size, fill, edgecolors=edge, linewidths=width)
    for row in lost:
        if x in row.point and y in row.point:
            axes.scatter(row.point[x], row.point[y], 30, color=RED, marker="x")
    for key, axis, set_label, set_scale in (
        (x, axes.xaxis, axes.set_xlabel, axes.set_xscale),
        (y, axes.yaxis, axes.set_ylabel, axes.set_yscale),
    ):
        set_label(key)
        if _is_log(dimensions[key]):
            set_scale("log")
            low, high = axis.get_view_interval()
            plain_ticks(axis, math.log10(high / low))
    colours.draw_bar(figure, axes)
    crosses = ", crosses: diverged" if lost else ""
    figure.suptitle(
        f"{y} against {x}\nlarge: trained to the end, circled: the best{crosses}", fontsize=11
    )
    return save(figure, path)


def _parallel(
    rows: Sequence[TrialRow],
    best: TrialRow,
    dimensions: Mapping[str, Dimension],
    colours: _Colours,
    path: Path,
) -> Path:
    figure = new_figure(4.8)
    axes = figure.subplots()
    keys = list(dimensions)
    for row in [*(r for r in rows if r is not best), *(r for r in rows if r is best)]:
        heights = [_height(dimensions[key], row.point.get(key)) for key in keys]
        width = 3.0 if row is best else 1.2
        axes.plot(range(len(keys)), heights, color=colours.of(row), linewidth=width, marker=".")
    for at, key in enumerate(keys):
        axes.axvline(at, color=GREY, linewidth=0.8, zorder=0)
        _ends(axes, at, dimensions[key])
    axes.set_xticks(range(len(keys)), [key.replace(".", ".\n") for key in keys])
    axes.set_yticks([])
    axes.set_ylim(-0.12, 1.12)
    axes.set_xlim(-0.3, len(keys) - 0.7)
    axes.spines[:].set_visible(False)
    colours.draw_bar(figure, axes)
    figure.suptitle("What every trial tried; thick: the best", fontsize=11)
    return save(figure, path)


def _height(dimension: Dimension, value: Any) -> float:
    """Where a value stands on its axis, from 0 to 1; NaN if it was not tried."""
    if value is None and None not in (dimension.values or ()):
        return math.nan
    if isinstance(dimension, Choice):
        return dimension.values.index(value) / max(1, len(dimension.values) - 1)
    scale = math.log if dimension.log else float
    low, high = scale(dimension.low), scale(dimension.high)
    return (scale(value) - low) / (high - low)


def _ends(axes: Axes, at: int, dimension: Dimension) -> None:
    if isinstance(dimension, Choice):
        for value in dimension.values:
            height = _height(dimension, value)
            axes.text(at + 0.02, height, str(value), fontsize=8, va="bottom")
        return
    axes.text(at, -0.04, f"{dimension.low:g}", fontsize=8, ha="center", va="top")
    axes.text(at, 1.04, f"{dimension.high:g}", fontsize=8, ha="center", va="bottom")


def _progress(events: Sequence[Event], metric: str, mode: ScoreMode, path: Path) -> Path:
    figure = new_figure(4.0)
    axes = figure.subplots()
    frame(axes)
    curve = best_so_far(events, mode)
    total, points = 0, []
    for event in events:
        total += event.tasks
        points.append((total, event.score))
    axes.scatter(
        [x for x, _ in points], [y for _, y in points], 8, color=GREY, label="a validation"
    )
    axes.step(
        [x for x, _ in curve],
        [y for _, y in curve],
        where="post",
        color=BLUE,
        label="the best so far",
    )
    _score_axis(axes, metric, [score for _, score in points])
    axes.set_xlabel("training tasks computed by all trials")
    axes.legend(frameon=False)
    figure.suptitle("The best validation score against what it cost", fontsize=11)
    return save(figure, path)


def _curves(
    rows: Sequence[TrialRow], best: TrialRow, events: Sequence[Event], metric: str, path: Path
) -> Path:
    figure = new_figure(4.4)
    axes = figure.subplots()
    frame(axes)
    lost = {row.number for row in rows if row.status == "diverged"}
    shown = []
    for number in [*(r.number for r in rows if r.number != best.number), best.number]:
        line = [(e.step, e.score) for e in events if e.number == number and number not in lost]
        if line:
            is_best = number == best.number
            axes.plot(
                [x for x, _ in line],
                [y for _, y in line],
                marker=".",
                label=f"trial {number}, the best" if is_best else None,
                color=BLUE if is_best else GREY,
                linewidth=2.2 if is_best else 1.0,
            )
            shown += [score for _, score in line]
    _score_axis(axes, metric, shown)
    axes.set_xlabel("outer step")
    axes.legend(frameon=False)
    figure.suptitle("Learning curves of all trials, on the same validation tasks", fontsize=11)
    return save(figure, path)


def _score_axis(axes: Axes, metric: str, scores: Sequence[float]) -> None:
    axes.set_ylabel(f"validation {metric}")
    if metric != "accuracy" and min(scores, default=0) > 0:
        axes.set_yscale("log")
        # The diverged ones would press all others together.
        typical = [s for s in scores if s <= 20 * float(np.median(scores))]
        low, high = min(typical) / 1.3, max(typical) * 1.3
        axes.set_ylim(low, high)
        plain_ticks(axes.yaxis, math.log10(high / low))
