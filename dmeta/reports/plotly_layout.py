"""What all plotly figures share: size, fonts, axes, and texts that are shown as they are."""

from __future__ import annotations

import html
import math
from typing import Any

import plotly.graph_objects as go

from dmeta.quoting import printable
from dmeta.reports.search_axes import KeyAxis, ScoreAxis, log_ticks
from dmeta.search.space import Choice
from dmeta.search.trials import value_text

_LONGEST_TITLE = 30
_LONGEST_LABEL = 20


def literal(text: str) -> str:
    """A text as plotly shows it unchanged: plotly reads some tags and entities of HTML."""
    return html.escape(printable(text), quote=False)


def in_lines(key: str) -> str:
    """A key in a narrow place: its parts below each other."""
    return literal(key).replace(".", ".<br>")


def short(value: Any) -> str:
    """A value as the label of a tick."""
    text = value_text(value)
    return literal(text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…")


def empty_figure(height: int) -> go.Figure:
    """An empty figure, so many pixels high and as wide as its place in the page."""
    return go.Figure(
        layout={
            "template": "plotly_white",
            "height": height,
            "margin": {"l": 60, "r": 15, "t": 15, "b": 50},
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#222"},
            "hovermode": "closest",
            "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"size": 12}},
            "showlegend": False,
        }
    )


def score_axis(axis: ScoreAxis) -> dict[str, Any]:
    """The axis of scores."""
    shown: dict[str, Any] = {"title": {"text": literal(axis.label)}, "zeroline": False}
    if axis.ends is not None:
        shown |= _log_axis(*axis.ends) if axis.is_log else {"range": axis.ends}
    return shown


def key_axis(axis: KeyAxis) -> dict[str, Any]:
    """The axis of a key alone: all that was searched, whether it was tried or not."""
    places = [axis.position(value) for value in axis.dimension.ends]
    low, high = min(places), max(places)
    title = literal(axis.key) if len(axis.key) <= _LONGEST_TITLE else in_lines(axis.key)
    shown: dict[str, Any] = {"title": {"text": title}, "zeroline": False}
    if axis.is_log:
        shown |= _log_axis(low * (low / high) ** 0.05, high * (high / low) ** 0.05)
    else:
        room = 0.05 * (high - low) if axis.is_numeric and high > low else 0.5
        shown["range"] = [low - room, high + room]
    if isinstance(axis.dimension, Choice):
        labelled = axis.labelled()
        shown["tickvals"] = [axis.position(value) for value in labelled]
        shown["ticktext"] = [short(value) for value in labelled]
    return shown


def _log_axis(low: float, high: float) -> dict[str, Any]:
    ticks = log_ticks(low, high)
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }
