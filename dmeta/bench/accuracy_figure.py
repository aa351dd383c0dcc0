"""The plot of accuracies against seconds of training. Data in, PNG out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from dmeta.bench.accuracy import AccuracyRow, best_first
from dmeta.bench.figures import STYLES
from dmeta.reports.drawing import frame, new_figure, save

_COLUMNS = 2


def accuracy_figure(rows: Sequence[AccuracyRow], title: str, path: Path) -> Path:
    """A line for each method: its validations against seconds of training.

    The best methods are in the first panel, the next ones in the second, and so on: as many in each
    as there are line styles.

    Args:
        rows: at least one, all of the same metric.
        title: what it is of.
        path: the PNG to write.

    Returns: `path`.
    """
    ranked = best_first(rows)
    groups = [ranked[i : i + len(STYLES)] for i in range(0, len(ranked), len(STYLES))]
    columns = min(_COLUMNS, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = new_figure(1.0 + 3.6 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, group in zip(panels, groups, strict=False):
        _draw_group(axes, group)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    metric = f"{ranked[0].metric} (%)" if ranked[0].declaration.is_fraction else ranked[0].metric
    figure.supxlabel("seconds of training", fontsize=10)
    figure.supylabel(f"{metric} on {ranked[0].num_val_tasks} validation tasks", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def _draw_group(axes: Axes, group: Sequence[AccuracyRow]) -> None:
    for row, (colour, dashes, marker) in zip(group, STYLES, strict=False):
        factor = 100.0 if row.declaration.is_fraction else 1.0
        x = [seconds for seconds, _, _ in row.curve]
        mean = [factor * value for _, value, _ in row.curve]
        away = [factor * ci95 for _, _, ci95 in row.curve]
        axes.plot(
            x, mean, color=colour, linestyle=dashes, marker=marker, markersize=4.0,
            linewidth=1.5, label=row.method,
        )  # fmt: skip
        low, high = zip(*((m - a, m + a) for m, a in zip(mean, away, strict=True)), strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.legend(frameon=False, fontsize=8, loc="best")
    frame(axes)
