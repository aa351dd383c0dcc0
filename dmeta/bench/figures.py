"""The plot of the costs of meta-gradients, and what other plots share. Data in, PNG out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from dmeta.bench.gradients import Cost
from dmeta.bilevel import ESTIMATORS
from dmeta.reports.drawing import (
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

Style: TypeAlias = tuple[str, str, str]
"""Colour, dashes and marker of a line."""

STYLES: tuple[Style, ...] = (
    (BLUE, "-", "o"),
    (GREEN, "--", "s"),
    (RED, "-", "^"),
    (PURPLE, "-.", "D"),
    (ORANGE, "--", "v"),
    (SKY, ":", "P"),
    (BLACK, ":", "X"),
)

CostValue = Callable[[Cost], float]


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
    values: tuple[tuple[str, CostValue], ...] = (
        ("peak memory of a block (MiB)", lambda row: row.peak_bytes / 2**20),
        ("seconds a block (median)", lambda row: row.median_seconds),
    )
    as_bars = len(all_steps) == 1
    figure = new_figure(1.6 + 0.4 * len(names) if as_bars else 4.6)
    panels = figure.subplots(1, 2, sharey=as_bars)
    styles = {name: _style_of(name) for name in names}
    for axes, (label, value) in zip(panels, values, strict=True):
        if as_bars:
            axes.set_xlabel(label)
            bars = [value(row) for row in rows]
            draw_bars(axes, [row.gradient for row in rows], bars, [s[0] for s in styles.values()])
        else:
            axes.set_ylabel(label)
            lines = {n: [(r.inner_steps, value(r)) for r in rows if r.gradient == n] for n in names}
            draw_lines(axes, "inner steps", lines, styles)
    steps = f", {all_steps[0]} inner step{'s' * (all_steps[0] != 1)}" if as_bars else ""
    figure.suptitle(title + steps, fontsize=11)
    if not as_bars:
        legend_below(figure, panels[0], columns=4)
    return save(figure, path)


def _style_of(name: str) -> Style:
    """The same for an estimator in every plot."""
    return STYLES[list(ESTIMATORS).index(name) % len(STYLES)]


def draw_lines(
    axes: Axes,
    x_label: str,
    lines: Mapping[str, Sequence[tuple[int, float]]],
    styles: Mapping[str, Style],
) -> None:
    """A line for each name, on logarithmic axes.

    Args:
        axes: to draw on.
        x_label: what is counted along x.
        lines: name -> its points, in any order.
        styles: name -> how it is drawn.
    """
    for name, points in lines.items():
        colour, dashes, marker = styles[name]
        own = sorted(points)
        axes.plot(
            [x for x, _ in own], [y for _, y in own], color=colour,
            linestyle=dashes, marker=marker, markersize=5.0, linewidth=1.8, label=name,
        )  # fmt: skip
    ticks = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xlabel(x_label)
    axes.set_xscale("log" if ticks[0] > 0 else "symlog")
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    drawn = [y for points in lines.values() for _, y in points]
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, decades=math.log10(max(drawn) / min(drawn)))
    frame(axes)


def draw_bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float | None],
    colours: Sequence[str],
    ranges: Sequence[tuple[float, float]] | None = None,
) -> None:
    """A bar with its number for each name, the first one on top.

    Args:
        axes: to draw on.
        names: of the bars.
        values: their lengths; None: not known, and said so.
        colours: of the bars.
        ranges: smallest and largest of what each value is the middle of; None: no such lines.
    """
    at, lengths = range(len(names)), [value or 0.0 for value in values]
    away = None
    if ranges is not None:
        pairs = list(zip(lengths, ranges, strict=True))
        away = [[value - low for value, (low, _) in pairs], [high - v for v, (_, high) in pairs]]
    bars = axes.barh(at, lengths, xerr=away, color=colours, height=0.6)
    axes.set_yticks(at, names)
    labels = ["not counted" if value is None else f"{value:.3g}" for value in values]
    axes.bar_label(bars, labels, padding=3, fontsize=9)
    axes.margins(x=0.15)
    axes.set_ylim(len(names) - 0.4, -0.6)
    frame(axes)
    axes.grid(visible=False, axis="y")
