"""The plot of the server's capacity. Data in, PNG out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dmeta.bench.figures import STYLES, Style, draw_lines
from dmeta.bench.scale import WAYS, Capacity
from dmeta.reports.drawing import legend_below, new_figure, save


def scale_figure(rows: Sequence[Capacity], title: str, path: Path) -> Path:
    """Steps a second against workers, a panel for each size of the vector, a line for each way.

    Args:
        rows: at least one.
        title: what it is of.
        path: the PNG to write.

    Returns: `path`.
    """
    sizes = sorted({row.num_bytes for row in rows})
    figure = new_figure(4.4)
    panels = figure.subplots(1, len(sizes), squeeze=False)[0]
    for axes, size in zip(panels, sizes, strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            if row.num_bytes == size:
                lines.setdefault(row.way, []).append((row.num_workers, row.steps_per_second))
                predicted = (row.num_workers, 1 / row.model_seconds)
                lines.setdefault(f"{row.way}, model", []).append(predicted)
        draw_lines(axes, "workers", lines, _STYLES)
        axes.set_title(f"{size / 1e6:g} MB", fontsize=10)
    panels[0].set_ylabel("steps/s")
    legend_below(figure, panels[-1], columns=4)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


_STYLES: dict[str, Style] = {way: STYLES[at] for at, way in enumerate(WAYS)} | {
    f"{way}, model": (STYLES[at][0], ":", "") for at, way in enumerate(WAYS)
}
