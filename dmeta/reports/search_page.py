"""The report of a search: one HTML file that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmeta.search.trials import TrialRow

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em;
       color: #222; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { text-align: right; padding: 2px 10px; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #888; }
tr.best { background: #e8f3fa; font-weight: bold; }
img { max-width: 100%; margin: 1em 0; }
pre { background: #f4f4f4; padding: 0.8em; overflow-x: auto; }
"""


def write_page(
    path: Path,
    title: str,
    lines: Sequence[str],
    rows: Sequence[TrialRow],
    best: TrialRow,
    searched: Sequence[str],
    pictures: Sequence[Path],
    preset: str,
) -> Path:
    """Write the report.

    Args:
        path: the file.
        title: what was searched.
        lines: what came of it, each a paragraph.
        rows: all trials, the best first.
        best: the best of them.
        searched: keys of the space.
        pictures: PNG files, to be part of the page.
        preset: the text of best.yaml.

    Returns: `path`.
    """
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in lines),
        *(_picture(picture) for picture in pictures),
        "<h2>Trials</h2>",
        _table(rows, best, searched),
        "<h2>The best settings</h2>",
        f"<pre>{html.escape(preset)}</pre>",
    ]
    body = "\n".join(parts)
    path.write_text(
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n{body}\n</html>\n"
    )
    return path


def _picture(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{content}">'


def _table(rows: Sequence[TrialRow], best: TrialRow, searched: Sequence[str]) -> str:
    heads = ["trial", "status", "score", "± 95%", "step", "tasks", "failures", *searched]
    lines = ["<table>", _line("th", heads)]
    for row in rows:
        score = "" if row.score is None else f"{row.score:.4f}"
        ci95 = "" if row.ci95 is None else f"{row.ci95:.4f}"
        cells = [str(row.number), row.status, score, ci95, str(row.step), str(row.tasks)]
        cells += [str(row.failures), *(shown(row.point, key) for key in searched)]
        lines.append(_line("td", cells, "best" if row is best else ""))
    return "\n".join([*lines, "</table>"])


def _line(tag: str, cells: Sequence[str], kind: str = "") -> str:
    inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f'<tr class="{kind}">{inner}</tr>'


def shown(point: Mapping[str, Any], key: str) -> str:
    """A value of a point, in few characters; nothing if the trial did not have it."""
    if key not in point:
        return ""
    value = point[key]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
