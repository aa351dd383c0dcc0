"""The report of a finished search: one HTML page."""

from __future__ import annotations

from dmeta.reports.search_figures import search_sections
from dmeta.reports.search_page import write_search_page
from dmeta.reports.search_view import search_view
from dmeta.runs.layout import PAGE, PRESET
from dmeta.search.finalize import Findings, summary_lines
from dmeta.training.nonfatal import warned_of


def report_search(found: Findings) -> None:
    """Write ``report.html``; a failure is a warning."""
    rows, ranked, config = found.rows, found.ranked, found.config
    best = ranked[0]
    with warned_of(PAGE):
        view = search_view(
            rows, best, found.events, found.space, found.summary["metric"], found.mode
        )
        write_search_page(
            found.folder / PAGE,
            f"{config.algorithm.name} on {config.task.source.name}: {len(rows)} trials",
            summary_lines(found.summary),
            [*ranked, *(row for row in rows if row not in ranked)],
            best,
            found.space.searched(),
            search_sections(view),
            (found.folder / PRESET).read_text(),
        )
