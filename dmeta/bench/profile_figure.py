"""The plot of where a step's time goes. Data in, PNG out."""

from __future__ import annotations

from pathlib import Path

from dmeta.bench.figures import draw_bars
from dmeta.bench.profile import ALL_PARTS, MATHEMATICS, Profile
from dmeta.reports.drawing import BLUE, GREY, new_figure, save


def profile_figure(found: Profile, title: str, path: Path) -> Path:
    """The share of a step that each part takes, as bars.

    Args:
        found: what was measured.
        title: what it is of.
        path: the PNG to write.

    Returns: `path`.
    """
    figure = new_figure(1.6 + 0.4 * len(ALL_PARTS))
    axes = figure.subplots()
    colours = [BLUE if part == MATHEMATICS else GREY for part in ALL_PARTS]
    draw_bars(axes, ALL_PARTS, [100 * found.share(part) for part in ALL_PARTS], colours)
    axes.set_xlabel("share of a step (%)")
    figure.suptitle(title, fontsize=11)
    return save(figure, path)
