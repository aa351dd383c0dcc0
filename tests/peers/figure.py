"""The plot of the same work in several libraries. Data in, PNG out."""

from __future__ import annotations

from pathlib import Path

from dmeta.bench.figures import draw_bars
from dmeta.reports.drawing import BLUE, GREY, new_figure, save
from tests.peers.measure import OWN, PeerCosts


def peers_figure(costs: PeerCosts, title: str, path: Path) -> Path:
    """Seconds (median, and a line from the smallest to the largest) and peak memory, as bars.

    Args:
        costs: what was measured.
        title: what it is of.
        path: the PNG to write.

    Returns: `path`.
    """
    rows = costs.rows
    names = [row.library for row in rows]
    colours = [BLUE if name == OWN else GREY for name in names]
    figure = new_figure(1.6 + 0.4 * len(rows))
    times, memory = figure.subplots(1, 2, sharey=True)
    ranges = [(min(row.seconds), max(row.seconds)) for row in rows]
    draw_bars(times, names, [row.median_seconds for row in rows], colours, ranges)
    times.set_xlabel("seconds a block (median, smallest to largest)")
    draw_bars(memory, names, [row.peak_bytes / 2**20 for row in rows], colours)
    memory.set_xlabel("peak memory of a block (MiB)")
    figure.suptitle(title, fontsize=11)
    return save(figure, path)
