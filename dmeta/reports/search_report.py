"""The report of a finished search: its figures, and one HTML page with all of them."""

from __future__ import annotations

from pathlib import Path

from dmeta.reports.search_figures import search_figures
from dmeta.reports.search_page import write_page
from dmeta.runs.layout import FIGURES, PAGE, PRESET
from dmeta.search.finalize import Findings, summary_lines
from dmeta.training.nonfatal import warned_of


def report_search(found: Findings) -> None:
    """Write ``figures/`` and ``report.html``; what cannot be drawn or written is a warning."""
    rows, ranked, config = found.rows, found.ranked, found.config
    pictures: list[Path] = []
    with warned_of("figures of the search"):
        pictures = search_figures(
            rows,
            ranked[0],
            found.events,
            found.space,
            found.summary["metric"],
            found.mode,
            found.folder / FIGURES,
        )
    with warned_of(PAGE):
        write_page(
            found.folder / PAGE,
            f"{config.algorithm.name} on {config.task.source.name}: {len(rows)} trials",
            summary_lines(found.summary),
            [*ranked, *(row for row in rows if row not in ranked)],
            ranked[0],
            found.space.searched(),
            pictures,
            (found.folder / PRESET).read_text(),
        )
