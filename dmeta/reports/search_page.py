"""The page of a search: its summary, its figures and a table of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dmeta.quoting import printable
from dmeta.reports.pages import write_page
from dmeta.reports.search_figures import Section
from dmeta.search.trials import TrialRow

_HEADS = ("trial", "status", "score", "± 95%", "step", "tasks", "failures")


class Cell(NamedTuple):
    """A cell of the table.

    Attributes:
        text: what it shows.
        sort_by: what its column is sorted by: a number or a text; empty cells come last.
    """

    text: str
    sort_by: object


def write_search_page(
    path: Path,
    title: str,
    lines: Sequence[str],
    rows: Sequence[TrialRow],
    best: TrialRow,
    searched: Sequence[str],
    sections: Sequence[Section],
    preset: str,
) -> None:
    """Write the page.

    Args:
        path: the file.
        title: what was searched.
        lines: what was found, each a paragraph.
        rows: all trials, the best first.
        best: the best of them.
        searched: keys of the space.
        sections: the figures.
        preset: the text of best.yaml.
    """
    write_page(
        path,
        "search.html",
        title=title,
        lines=lines,
        sections=sections,
        heads=[*_HEADS, *searched],
        trials=[(_cells(row, searched), row is best) for row in rows],
        errors=[f"trial {row.number}: {printable(row.error)}" for row in rows if row.error],
        preset=preset,
    )


def _cells(row: TrialRow, searched: Sequence[str]) -> list[Cell]:
    cells = [Cell(str(row.number), row.number), Cell(row.status, row.status)]
    for number in (row.score, row.ci95):
        cells.append(Cell("", "") if number is None else Cell(f"{number:.4f}", number))
    cells += [Cell(f"{count:,}", count) for count in (row.step, row.tasks, row.failures)]
    return cells + [Cell(printable(row.shown(key)), row.point.get(key, "")) for key in searched]
