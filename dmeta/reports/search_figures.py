"""The interactive figures of a search. Draws a `SearchView`; decides nothing about its content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from dmeta.reports.drawing import BLACK, BLUE, RED
from dmeta.reports.plotly_layout import empty_figure, in_lines, key_axis, literal, score_axis, short
from dmeta.reports.search_axes import KeyAxis, ScoreAxis
from dmeta.reports.search_view import SearchView, TrialMark

# Without the yellow, which is hard to see on white.
_COLOURS: list[str] = sample_colorscale("Viridis", [at / 10 for at in range(10)])
_REPORT = "%{y:.4g}<br>%{hovertext}<extra></extra>"
_GREY = "#B8B8B8"
_SIZES = {"best": 14, "finished": 11, "partial": 7, "diverged": 9}

Points: TypeAlias = list[tuple[float, float]]
"""The points of a line."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        caption: how to read its figures.
        figures: next to each other where there is room.
        least_width: pixels; a narrower page scrolls the figures sideways.
    """

    title: str
    caption: str
    figures: Sequence[go.Figure]
    least_width: int = 0


def search_sections(view: SearchView) -> list[Section]:
    """All figures for which there is something to show."""
    sections = [_slices(view)]
    if view.plane is not None:
        sections.append(_plane(view, *view.plane))
    if len(view.axes) > 1:
        sections.append(_parallel(view))
    return [*sections, _progress(view), _curves(view)]


def _slices(view: SearchView) -> Section:
    figures = [_slice(view, axis) for axis in view.axes.values()]
    caption = (
        "The last validation score of every trial, with its 95% confidence interval, against each "
        "of its values. Large: trained to the end; circled: the best; crosses at the edge: "
        "diverged, without a score."
    )
    return Section("Score against each value", caption + _outside(view.colours), figures)


def _slice(view: SearchView, axis: KeyAxis) -> go.Figure:
    figure = empty_figure(300)
    marks = [mark for mark in view.marks if axis.key in mark.row.point]
    scored = [mark for mark in marks if mark.shade is not None]
    lost = [mark for mark in marks if mark.kind == "diverged"]
    interval = {"array": [mark.row.ci95 or 0.0 for mark in scored], "color": _GREY}
    figure.add_scatter(
        x=[axis.position(mark.row.point[axis.key]) for mark in scored],
        y=[mark.row.score for mark in scored],
        error_y={**interval, "thickness": 1, "width": 0},
        **_points(scored, view.colours),
    )
    figure.add_scatter(
        x=[axis.position(mark.row.point[axis.key]) for mark in lost],
        y=[0.03] * len(lost),
        yaxis="y2",
        **_points(lost, view.colours),
    )
    edge = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    figure.update_layout(xaxis=key_axis(axis), yaxis=score_axis(view.colours), yaxis2=edge)
    return figure


def _plane(view: SearchView, x: str, y: str) -> Section:
    figure = empty_figure(480)
    marks = [mark for mark in view.marks if x in mark.row.point and y in mark.row.point]
    figure.add_scatter(
        x=[view.axes[x].position(mark.row.point[x]) for mark in marks],
        y=[view.axes[y].position(mark.row.point[y]) for mark in marks],
        **_points(marks, view.colours),
    )
    labelled = view.colours.labelled()
    bar = {
        "title": {"text": literal(view.colours.label), "side": "right"},
        "tickvals": [view.colours.fraction(score) for score in labelled],
        "ticktext": [f"{score:.3g}" for score in labelled],
        "thickness": 12,
        "outlinewidth": 0,
    }
    scale = {"colorscale": _scale(view.colours), "cmin": 0, "cmax": 1, "colorbar": bar}
    figure.add_scatter(x=[None], y=[None], marker={**scale, "color": [0], "showscale": True})
    figure.update_layout(xaxis=key_axis(view.axes[x]), yaxis=key_axis(view.axes[y]))
    caption = "Large: trained to the end; circled: the best; crosses: diverged."
    if missing := len(view.marks) - len(marks):
        caption += f" Not shown: {missing} of {len(view.marks)} trials, which lack one of the two."
    return Section(f"{y} against {x}", caption, [figure])


def _parallel(view: SearchView) -> Section:
    figure = empty_figure(420)
    axes = list(view.axes.values())

    def path(mark: TrialMark) -> Points:
        point = mark.row.point
        tried = [(at, axis) for at, axis in enumerate(axes) if axis.key in point]
        points: Points = [(at, axis.height(point[axis.key])) for at, axis in tried]
        return points if mark.shade is None else [*points, (len(axes), mark.shade)]

    _add_lines(figure, view, path, hoverinfo="text")
    for at, axis in enumerate(axes):
        _label(figure, at, [(axis.height(value), short(value)) for value in axis.labelled()])
    scores = view.colours.labelled()
    _label(figure, len(axes), [(view.colours.fraction(each), f"{each:.3g}") for each in scores])
    names = [in_lines(name) for name in (*view.axes, view.colours.label)]
    figure.update_layout(
        xaxis={
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "showgrid": False,
            "zeroline": False,
            "range": [-0.15, len(axes) + 0.45],
        },
        yaxis={"visible": False, "range": [-0.06, 1.06]},
        margin={"l": 25},
    )
    caption = (
        "Every line is a trial, from its values to its score; thick: the best, dotted: diverged. "
        "A trial without a value has no point on that axis: its line goes past."
    )
    return Section("All values of every trial", caption, [figure], 110 * len(names))


def _label(figure: go.Figure, at: int, labels: Sequence[tuple[float, str]]) -> None:
    """Draw one of parallel axes, and at each height its text."""
    figure.add_vline(at, line={"color": _GREY, "width": 1}, layer="below")
    style = {"showarrow": False, "xanchor": "left", "xshift": 5, "bgcolor": "rgba(255,255,255,0.7)"}
    for height, text in labels:
        figure.add_annotation(x=at, y=height, text=text, **style)


def _progress(view: SearchView) -> Section:
    figure = empty_figure(400)
    marks = {mark.row.number: mark for mark in view.marks}
    places = {number: at for at, number in enumerate(marks)}
    colours = [_colour(marks[report.number], view.colours) for report in view.reports]
    figure.add_scatter(
        y=[report.score for report in view.reports],
        mode="markers",
        marker={"color": colours, "size": 7},
        text=[report.step for report in view.reports],
        hovertemplate=f"step %{{text}}: {_REPORT}",
        customdata=[places[report.number] for report in view.reports],
        meta=[_text(mark) for mark in marks.values()],
    )
    line = {"mode": "lines", "line": {"color": BLUE, "width": 2, "shape": "hv"}}
    figure.add_scatter(y=[score for _, _, score in view.best], hoverinfo="skip", **line)
    tasks = [[each.tasks for each in view.reports], [tasks for tasks, _, _ in view.best]]
    seconds = [[each.seconds for each in view.reports], [time for _, time, _ in view.best]]
    minutes = [[each / 60 for each in some] for some in seconds]
    by_tasks = _button("by tasks", "training tasks computed by all trials", tasks)
    by_time = _button("by time", "minutes since the first validation", minutes)
    for trace, x in zip(figure.data, tasks, strict=True):
        trace.x = x
    place = {"x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}
    menu = {"type": "buttons", "direction": "right", "buttons": [by_tasks, by_time], **place}
    figure.update_layout(yaxis=score_axis(view.scores), updatemenus=[menu], **by_tasks["args"][1])
    caption = "Every validation of every trial; the line: the best score until then."
    return Section("Best score so far", caption + _outside(view.scores), [figure])


def _button(label: str, title: str, xs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Shows all traces of a figure over other numbers; the axis shows all of these."""
    layout = {"xaxis.title.text": title, "xaxis.autorange": True}
    return {"label": label, "method": "update", "args": [{"x": xs}, layout]}


def _curves(view: SearchView) -> Section:
    figure = empty_figure(440)
    paths: dict[int, Points] = {mark.row.number: [] for mark in view.marks}
    for report in view.reports:
        paths[report.number].append((report.step, report.score))
    _add_lines(
        figure, view, lambda mark: paths[mark.row.number], hovertemplate=f"step %{{x}}: {_REPORT}"
    )
    figure.update_layout(xaxis={"title": {"text": "outer step"}}, yaxis=score_axis(view.scores))
    caption = "Validation scores of every trial, all on the same validation tasks; thick: the best."
    return Section("Learning curves", caption + _outside(view.scores), [figure])


def _add_lines(
    figure: go.Figure, view: SearchView, path: Callable[[TrialMark], Points], **hover: str
) -> None:
    """Draw every trial as a line that says all of it.

    Those that look alike are one trace, with a gap after each: a browser takes seconds for
    hundreds of traces. A text is in the trace once; its points have its place (base.html).
    """
    alike: dict[tuple[str, float, str], list[TrialMark]] = {}
    for mark in view.marks:
        alike.setdefault(_line(mark, view.colours), []).append(mark)
    for (colour, width, dash), marks in alike.items():
        points: list[tuple[float | None, float | None, int]] = []
        for at, mark in enumerate(marks):
            points += [*((x, y, at) for x, y in path(mark)), (None, None, at)]
        figure.add_scatter(
            x=[x for x, _, _ in points],
            y=[y for _, y, _ in points],
            customdata=[at for _, _, at in points],
            meta=[_text(mark) for mark in marks],
            mode="lines+markers",
            line={"color": colour, "width": width, "dash": dash},
            marker={"size": 5},
            **hover,
        )


def _points(marks: Sequence[TrialMark], colours: ScoreAxis) -> dict[str, Any]:
    """Trials as points, which say all of them."""
    rings = [2.5 if mark.kind == "best" else 0 for mark in marks]
    return {
        "mode": "markers",
        "marker": {
            "color": [_colour(mark, colours) for mark in marks],
            "size": [_SIZES[mark.kind] for mark in marks],
            "symbol": ["x" if mark.kind == "diverged" else "circle" for mark in marks],
            "line": {"color": BLACK, "width": rings},
            "opacity": 1,
        },
        "hoverinfo": "text",
        "hovertext": [_text(mark) for mark in marks],
    }


def _line(mark: TrialMark, colours: ScoreAxis) -> tuple[str, float, str]:
    """Colour, width and dashes."""
    width, dash = (
        (3.5 if mark.kind == "best" else 1.3),
        "dot" if mark.kind == "diverged" else "solid",
    )
    return _colour(mark, colours), width, dash


def _text(mark: TrialMark) -> str:
    first, *others = map(literal, mark.lines)
    return "<br>".join([f"<b>{first}</b>", *others])


def _colour(mark: TrialMark, colours: ScoreAxis) -> str:
    if mark.shade is None:
        return RED if mark.kind == "diverged" else _GREY
    scale = _scale(colours)
    return scale[round(mark.shade * (len(scale) - 1))]


def _scale(colours: ScoreAxis) -> list[str]:
    """From dark to light, or the other way where the large scores are to be dark."""
    return _COLOURS[::-1] if colours.darkest_is_high else _COLOURS


def _outside(axis: ScoreAxis) -> str:
    return " Errors far above the others are outside: double-click." if axis.has_outliers else ""
