"""What all figures share: size, colours, axes. Does not know what is drawn.

Drawn on figure objects of their own, never through pyplot, whose state is global. Colours are of
Okabe & Ito's palette, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, BLACK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C8C8C",
)  # fmt: skip
_WIDTH_INCHES = 9.0
_DPI = 200  # 1800 pixels: sharp when shown 900 wide


def new_figure(height_inches: float) -> Figure:
    """An empty figure, as wide as all others."""
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def frame(axes: Axes) -> None:
    """A light grid, and axis lines only where there are ticks."""
    axes.grid(color="#E4E4E4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def plain_ticks(axis: Axis, decades: float) -> None:
    """0.01, 0.02, 0.05, 0.1 rather than powers of ten, as long as they fit."""
    subs = (1.0, 2.0, 3.0, 5.0) if decades < 1.3 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """What the lines of `axes` are, under the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(columns, len(labels)),
        frameon=False,
        columnspacing=1.4,
    )


def save(figure: Figure, path: Path) -> Path:
    """Write the PNG; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, format="png", facecolor="white")
    return path
