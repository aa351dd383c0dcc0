"""What the page of a search shows of its trials, as plain data: marks, lines, texts.

Knows neither plotly nor HTML: every text here is as the user wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dmeta.reports.search_axes import KeyAxis, ScoreAxis, key_axes, plane_keys
from dmeta.search.space import Space
from dmeta.search.trial_history import Event, progress
from dmeta.search.trial_reports import ScoreMode
from dmeta.search.trials import TrialRow

MarkKind: TypeAlias = Literal["best", "finished", "partial", "diverged"]
"""``partial``: it was stopped early, or is not done."""

_LONGEST = 60


@dataclass(frozen=True)
class TrialMark:
    """A trial, as all figures show it.

    Attributes:
        row: the trial.
        kind: how it is drawn.
        shade: where its colour stands between those of the least and the largest score, from 0 to
            1; None if it has no score.
        lines: what is said of it: its number and status, its score, and every value.
    """

    row: TrialRow
    kind: MarkKind
    shade: float | None
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A validation of a trial, and the state of the search then.

    Attributes:
        number: of the trial.
        step: outer steps that it had done.
        score: of the validation.
        tasks: of training, computed by all trials until then.
        seconds: since the first report.
    """

    number: int
    step: int
    score: float
    tasks: int
    seconds: float


@dataclass(frozen=True)
class SearchView:
    """All that the figures of a search show.

    Attributes:
        marks: the trials that have reported or diverged, the best one last: it is drawn on top.
        axes: key -> axis, of the keys that were tried.
        plane: the keys of the horizontal and the vertical axis that are drawn against each other.
        colours: the axis of the trials' last scores, which are their colours.
        scores: the axis of all scores that were reported.
        reports: all of these, by their time.
        best: (tasks, seconds, best score until then), after each report.
    """

    marks: tuple[TrialMark, ...]
    axes: Mapping[str, KeyAxis]
    plane: tuple[str, str] | None
    colours: ScoreAxis
    scores: ScoreAxis
    reports: tuple[Report, ...]
    best: tuple[tuple[int, float, float], ...]


def search_view(
    rows: Sequence[TrialRow],
    best: TrialRow,
    events: Sequence[Event],
    space: Space,
    metric: str,
    mode: ScoreMode,
) -> SearchView:
    """Arrange a search for its figures.

    Args:
        rows: the trials.
        best: the best of them.
        events: what they reported, by time.
        space: that was searched.
        metric: name of the scores.
        mode: which way these are better.
    """
    axes = key_axes(space, rows)
    scored = [row.score for row in rows if row.score is not None and row.status != "diverged"]
    colours = ScoreAxis.of(scored, metric, mode)
    reported = {event.number for event in events if event.score is not None}
    drawn = [
        row
        for row in rows
        if row.score is not None or row.status == "diverged" or row.number in reported
    ]
    drawn.sort(key=lambda row: row is best)
    curve = progress(events, mode)
    reports = tuple(
        Report(event.number, event.step, event.score, now.tasks, now.seconds)
        for event, now in zip(events, curve, strict=True)
        if event.score is not None
    )
    return SearchView(
        marks=tuple(_mark(row, row is best, colours, axes) for row in drawn),
        axes=axes,
        plane=plane_keys(axes),
        colours=colours,
        scores=ScoreAxis.of([report.score for report in reports], metric, mode),
        reports=reports,
        best=tuple((now.tasks, now.seconds, now.best) for now in curve if now.best is not None),
    )


def _mark(
    row: TrialRow, is_best: bool, colours: ScoreAxis, axes: Mapping[str, KeyAxis]
) -> TrialMark:
    kind: MarkKind = "finished" if row.status == "finished" else "partial"
    kind = "best" if is_best else "diverged" if row.status == "diverged" else kind
    shade = None if row.score is None or kind == "diverged" else colours.fraction(row.score)
    return TrialMark(row, kind, shade, tuple(_lines(row, kind, colours, axes)))


def _lines(
    row: TrialRow, kind: MarkKind, colours: ScoreAxis, axes: Mapping[str, KeyAxis]
) -> list[str]:
    score, step = "no score", row.step
    if row.score is not None:
        interval = "" if row.ci95 is None else f" ± {row.ci95:.2g}"
        score, step = f"{colours.label} {row.score:.4g}{interval}", row.of_step
    return [
        f"trial {row.number}: {row.status}{', the best' if kind == 'best' else ''}",
        f"{score}, after {step} outer steps",
        *(f"{key} = {_shortened(row.shown(key))}" for key in axes if key in row.point),
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
