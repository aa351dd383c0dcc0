"""The page of a search: all of its figures and trials, and nothing of a user's text as HTML."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from dmeta.reports.pages import write_page
from dmeta.reports.plotly_layout import literal
from dmeta.reports.search_figures import search_sections
from dmeta.reports.search_page import write_search_page
from dmeta.reports.search_view import search_view
from dmeta.search.space import Choice, Interval, Space
from dmeta.search.trial_history import Event
from dmeta.search.trials import TrialRow
from tests.reports.trial_rows import trial_row

METHODS = Space(
    {"algorithm": Choice(("maml", "anil", "protonet")), "outer.clip_norm": Choice((None, 1.0))},
    {
        "algorithm=maml": Space(
            {"algorithm.inner_steps": Choice((1, 3)), "algorithm.inner_lr": Interval(0.1, 1)}
        ),
        "algorithm=anil": Space(
            {"algorithm.inner_steps": Choice((5, 10)), "algorithm.inner_lr": Interval(0.001, 0.1)}
        ),
    },
)
POINTS: list[dict[str, Any]] = [
    {"algorithm": "maml", "algorithm.inner_steps": 1, "algorithm.inner_lr": 0.9},
    {"algorithm": "anil", "algorithm.inner_steps": 10, "algorithm.inner_lr": 0.002},
    {"algorithm": "protonet"},
    {"algorithm": "maml", "algorithm.inner_steps": 3, "algorithm.inner_lr": 0.2},
]
HOSTILE = (
    "<b>x</b>",
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "&lt;i&gt; {{ 7 * 7 }} %{x} $x$",
    "\x1b[31m\udcff",
)
KEY = "model</script>"


class Parsed(HTMLParser):
    """The elements of a page, its text, its figures, and the cells of its table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.text = ""
        self.figures: list[dict[str, Any]] = []
        self.cells: list[str] = []
        self._inside: dict[str, str | None] = {}
        self._tag = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self._tag, self._inside = tag, dict(attrs)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self._tag == "script":
            if self._inside.get("type") == "application/json" and data.strip():
                self.figures.append(json.loads(data))
            return
        self.text += data
        if self._tag == "td":
            self.cells[-1] += data.strip()

    def texts(self) -> list[str]:
        """All texts in the figures."""
        found: list[str] = []

        def collect(value: Any) -> None:
            if isinstance(value, dict):
                for each in value.values():
                    collect(each)
            elif isinstance(value, list):
                for each in value:
                    collect(each)
            elif isinstance(value, str):
                found.append(value)

        collect([[figure["data"], {**figure["layout"], "template": {}}] for figure in self.figures])
        return found


def write(path: Path, rows: list[TrialRow], space: Space, metric: str = "accuracy") -> Parsed:
    """The page of these trials, the second of which is the best."""
    mode: Any = "max" if metric == "accuracy" else "min"
    events = [
        Event(row.number, step, 50, row.score, float(row.number + step))
        for row in rows
        for step in (5, 10)
    ]
    view = search_view(rows, rows[1], events, space, metric, mode)
    lines, preset = [f"What was found: {HOSTILE[0]}"], f"name: {HOSTILE[2]}"
    keys = space.searched()
    sections = search_sections(view)
    write_search_page(path, HOSTILE[1], lines, rows, rows[1], keys, sections, preset)
    return Parsed(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    space = Space({KEY: Choice(HOSTILE), "outer.lr": Interval(0.001, 0.1, log=True)})
    rows = [
        trial_row(at + 1, {KEY: value, "outer.lr": 0.01 * (at + 1)}, 0.1 * (at + 1))
        for at, value in enumerate(HOSTILE)
    ]
    rows.append(trial_row(9, {KEY: "a"}, None, status="failed", error=HOSTILE[2]))
    return write(tmp_path_factory.mktemp("hostile") / "report.html", rows, space)


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_every_figure_is_there_for_keys_under_several_conditions(
    tmp_path: Path, metric: str
) -> None:
    rows = [
        trial_row(at + 1, {**point, "outer.clip_norm": None}, score)
        for at, (point, score) in enumerate(zip(POINTS, [0.5, 0.7, 0.6, None], strict=True))
    ]
    view = search_view(rows, rows[1], [Event(1, 5, 9, 0.5, 1.0)], METHODS, metric, "max")
    sections = search_sections(view)
    assert [(section.title, len(section.figures)) for section in sections] == [
        ("Score against each value", 4),
        ("algorithm.inner_steps against algorithm.inner_lr", 1),
        ("All values of every trial", 1),
        ("Best score so far", 1),
        ("Learning curves", 1),
    ]
    plane = sections[1].figures[0]
    assert list(plane.data[0].x) == [0.9, 0.2, 0.002]  # the best is on top
    assert list(plane.data[0].marker.symbol) == ["circle", "x", "circle"]
    assert (plane.layout.xaxis.type, plane.layout.yaxis.type) == (None, "log")
    lines = sections[2].figures[0].data
    assert [(line.line.dash, line.line.width) for line in lines] == [
        ("solid", 1.3), ("solid", 1.3), ("dot", 1.3), ("solid", 3.5),
    ]  # fmt: skip
    assert list(lines[1].x) == [0, 1, 4, None]  # of protonet: no inner loop, but a score
    assert list(lines[2].x) == [0, 1, 2, 3, None]  # diverged: no score
    write_page(tmp_path / "report.html", "search.html", **page_of(sections))
    figures = Parsed((tmp_path / "report.html").read_text(encoding="utf-8")).figures
    assert len(figures) == 8


def page_of(sections: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"lines": [], "heads": [], "trials": [], "errors": [], "preset": ""}
    return {**empty, "title": "a search", "sections": sections}


def test_a_trial_says_all_of_its_values_in_every_figure(hostile: Parsed) -> None:
    for figure in hostile.figures:
        texts = json.dumps([trace.get("hovertext", trace.get("meta")) for trace in figure["data"]])
        assert "<b>trial 2: finished, the best</b>" in texts
        assert "outer.lr = 0.02" in texts


def test_no_text_of_a_user_is_html(hostile: Parsed) -> None:
    names = {"html", "head", "meta", "title", "style", "script", "body", "h1", "p", "h2", "div",
             "table", "thead", "tbody", "tr", "th", "td", "button", "ul", "li", "pre"}  # fmt: skip
    assert set(hostile.tags) == names
    assert not [name for name in hostile.attributes if name.startswith("on")]
    assert hostile.tags["script"] == 2 + len(hostile.figures)
    assert HOSTILE[0] in hostile.cells
    assert hostile.cells.count(HOSTILE[1]) == 1
    assert KEY in hostile.text
    assert f"trial 9: {HOSTILE[2]}" in hostile.text
    assert r"\x1b[31m\udcff" in hostile.cells


def test_plotly_is_given_no_tags_but_those_of_the_figures(hostile: Parsed) -> None:
    """It reads `<b>`, `<br>`, `<a href>` and entities in every text."""
    texts = hostile.texts()
    assert any("&lt;b&gt;x&lt;/b&gt;" in text for text in texts)
    assert any("&lt;img src=x onerror=alert(1)&gt;" in text for text in texts)
    tags = {tag for text in texts for tag in re.findall(r"<[^>]*>", text)}
    assert tags == {"<b>", "</b>", "<br>", "<extra>", "</extra>"}
    templates = {t.get("hovertemplate") for f in hostile.figures for t in f["data"]}
    assert len(templates) == 3  # of two figures of reports, and none


def test_a_literal_text_has_no_control_characters() -> None:
    assert literal("a\n<b>&\x1b") == r"a\n&lt;b&gt;&amp;\x1b"


def test_a_page_is_one_file_that_needs_no_network(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "search.html", **page_of([]))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = Parsed(page)
    assert not {"src", "href"} & parsed.attributes
    assert "default-src 'none'" in page
    assert "showSendToCloud: false" in page
    assert page.count("* plotly.js v") == 1


def test_a_number_that_json_does_not_have_is_refused(tmp_path: Path) -> None:
    sections = [{"title": "", "caption": "", "least_width": 0, "figures": [_of(float("nan"))]}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_page(tmp_path / "page.html", "search.html", **page_of(sections))


def _of(number: float) -> go.Figure:
    return go.Figure(data={"type": "scatter", "x": [number]}, layout={"height": 300})


def test_rows_are_sorted_by_numbers_and_texts(tmp_path: Path) -> None:
    rows = [trial_row(1, {"outer.lr": 0.123456789}, 0.25), trial_row(2, {"outer.lr": 1e-05}, 0.5)]
    write(tmp_path / "report.html", rows, Space({"outer.lr": Interval(1e-5, 1.0, log=True)}))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<td data-sort-by="0.123456789">0.1235</td>' in page
    assert '<td data-sort-by="1e-05">1e-05</td>' in page
    assert '<td data-sort-by="0.25">0.2500</td>' in page
    assert page.count('<tr class="best">') == 1
