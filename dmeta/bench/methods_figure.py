"""The plot of what a task of each method costs. Data in, PNG out."""

from __future__ import annotations

from pathlib import Path

from matplotlib.ticker import NullFormatter

from dmeta.bench.figures import STYLES, draw_bars
from dmeta.bench.methods import MethodCosts
from dmeta.reports.drawing import new_figure, save


def methods_figure(costs: MethodCosts, title: str, path: Path) -> Path:
    """Seconds of a task and memory of a block, divided by the reference's, a bar for each method.

    Args:
        costs: at least one row.
        title: what it is of.
        path: the PNG to write.

    Returns: `path`.
    """
    rows = sorted(costs.rows, key=costs.times)
    figure = new_figure(1.6 + 0.25 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    names = [row.method for row in rows]
    colours = [STYLES[row is costs.reference][0] for row in rows]
    of = costs.reference.method
    values: dict[str, list[float | None]] = {
        f"seconds of a task / {of}'s": [costs.times(row) for row in rows],
        f"memory of a block / {of}'s": [costs.memory(row) for row in rows],
    }
    for axes, (label, bars) in zip(panels, values.items(), strict=True):
        draw_bars(axes, names, bars, colours)
        axes.set_xscale("log")  # methods differ by factors
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)
