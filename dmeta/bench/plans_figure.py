"""The plot of the execution plans. Data in, PNG out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dmeta.bench.figures import STYLES, draw_bars, draw_lines
from dmeta.bench.plans import PLANS, PlanCost
from dmeta.reports.drawing import legend_below, new_figure, save

_Value = Callable[[PlanCost], float | None]

_VALUES: tuple[tuple[str, _Value], ...] = (
    ("tasks/s", lambda row: row.tasks_per_second),
    ("peak memory of a block (MiB)", lambda row: _mebibytes(row.peak_bytes)),
)


def plans_figure(rows: Sequence[PlanCost], title: str, path: Path) -> Path:
    """Tasks per second and peak memory of every plan.

    Against the tasks of a block, a line for each plan, on logarithmic axes; bars where there is but
    one number of tasks.

    Args:
        rows: at least one.
        title: what it is of.
        path: the PNG to write.

    Returns: `path`.
    """
    as_bars = len({row.num_tasks for row in rows}) == 1
    figure = _bars(rows) if as_bars else _lines(rows)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def _bars(rows: Sequence[PlanCost]) -> Figure:
    figure = new_figure(1.6 + 0.4 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    names = [row.plan for row in rows]
    colours = [STYLES[PLANS.index(row.plan)][0] for row in rows]
    for axes, (label, value) in zip(panels, _VALUES, strict=True):
        draw_bars(axes, names, [value(row) for row in rows], colours)
        axes.set_xlabel(label)
    return figure


def _lines(rows: Sequence[PlanCost]) -> Figure:
    figure = new_figure(4.6)
    panels = figure.subplots(1, 2)
    styles = {str(plan): STYLES[at] for at, plan in enumerate(PLANS)}
    for axes, (label, value) in zip(panels, _VALUES, strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            if (y := value(row)) is not None:
                lines.setdefault(row.plan, []).append((row.num_tasks, y))
        axes.set_ylabel(label)
        if lines:
            draw_lines(axes, "tasks of the block", lines, styles)
    legend_below(figure, panels[0], columns=4)
    return figure


def _mebibytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 2**20
