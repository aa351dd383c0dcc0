"""The plot of what the meta-gradients cost. Data in, PNG out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from dmeta.bench.gradients import Cost
from dmeta.bilevel.estimators import ESTIMATORS
from dmeta.training.drawing import (
    BLACK,
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

_STYLES = (
    (BLUE, "-", "o"),
    (GREEN, "--", "s"),
    (RED, "-", "^"),
    (PURPLE, "-.", "D"),
    (ORANGE, "--", "v"),
    (SKY, ":", "P"),
    (BLACK, ":", "X"),
)

Value = Callable[[Cost], float]


def cost_figure(rows: Sequence[Cost], title: str, path: Path) -> Path:
    """Peak memory and seconds of a block, of every estimator.

    Against inner steps, a line for each estimator, on logarithmic axes; bars where there is but one
    number of inner steps.

    Args:
        rows: at least one.
        title: what it is of.
        path: the PNG to write.

    Returns: `path`.
    """
    names = list(dict.fromkeys(row.gradient for row in rows))
    all_steps = sorted({row.inner_steps for row in rows})
    values: tuple[tuple[str, Value], ...] = (
        ("peak memory of a block (MiB)", lambda row: row.peak_bytes / 2**20),
        ("seconds a block (median)", lambda row: row.median_seconds),
    )
    as_bars = len(all_steps) == 1
    figure = new_figure(1.6 + 0.4 * len(names) if as_bars else 4.6)
    panels = figure.subplots(1, 2, sharey=as_bars)
    for axes, (label, value) in zip(panels, values, strict=True):
        axes.set_xlabel(label) if as_bars else axes.set_ylabel(label)
        if as_bars:
            _draw_bars(axes, rows, value)
        else:
            _draw_lines(axes, rows, names, value, all_steps)
    steps = f", {all_steps[0]} inner step{'s' * (all_steps[0] != 1)}" if as_bars else ""
    figure.suptitle(title + steps, fontsize=11)
    if not as_bars:
        legend_below(figure, panels[0], columns=4)
    return save(figure, path)


def _style_of(name: str) -> tuple[str, str, str]:
    """The same for an estimator in every plot."""
    return _STYLES[list(ESTIMATORS).index(name) % len(_STYLES)]


def _draw_lines(
    axes: Axes, rows: Sequence[Cost], names: Sequence[str], value: Value, all_steps: Sequence[int]
) -> None:
    for name in names:
        colour, dashes, marker = _style_of(name)
        own = sorted((row for row in rows if row.gradient == name), key=lambda r: r.inner_steps)
        axes.plot(
            [row.inner_steps for row in own], [value(row) for row in own], color=colour,
            linestyle=dashes, marker=marker, markersize=5.0, linewidth=1.8, label=name,
        )  # fmt: skip
    axes.set_xlabel("inner steps")
    axes.set_xscale("log" if all_steps[0] > 0 else "symlog")
    axes.set_xticks(all_steps)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    drawn = [value(row) for row in rows]
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, decades=math.log10(max(drawn) / min(drawn)))
    frame(axes)


def _draw_bars(axes: Axes, rows: Sequence[Cost], value: Value) -> None:
    names = [row.gradient for row in rows]
    draw_bars(axes, names, [value(row) for row in rows], [_style_of(name)[0] for name in names])


def draw_bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    ranges: Sequence[tuple[float, float]] | None = None,
) -> None:
    """A bar with its number for each name, the first one on top.

    Args:
        axes: to draw on.
        names: of the bars.
        values: their lengths.
        colours: of the bars.
        ranges: smallest and largest of what each value is the middle of; None: no such lines.
    """
    at = range(len(names))
    away = None
    if ranges is not None:
        pairs = list(zip(values, ranges, strict=True))
        away = [[value - low for value, (low, _) in pairs], [high - v for v, (_, high) in pairs]]
    bars = axes.barh(at, values, xerr=away, color=colours, height=0.6)
    axes.set_yticks(at, names)
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=9)
    axes.margins(x=0.15)
    axes.set_ylim(len(names) - 0.4, -0.6)
    frame(axes)
    axes.grid(visible=False, axis="y")
