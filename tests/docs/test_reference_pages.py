"""The pages of the documentation site that are generated from the code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs" / "_ext"))

from reference_pages import methods, settings, text  # noqa: E402
from reference_pages.cluster import cluster_page, grafana_page  # noqa: E402
from reference_pages.data_sets import data_sets_page, declared_sets  # noqa: E402

from dmeta.algorithms import ALGORITHMS  # noqa: E402


def test_every_setting_of_a_run_has_a_meaning() -> None:
    groups = settings.run_settings()
    assert {"", "algorithm", "outer", "runtime", "eval", "checkpoint", "search"} <= groups.keys()
    every = [setting for group in groups.values() for setting in group]
    assert [setting.key for setting in every if not setting.meaning] == []
    by_key = {setting.key: setting for setting in every}
    assert by_key["trust"].default == "`false`"
    assert by_key["steps"].kind == "whole number >= 1"
    assert by_key["runtime.hung_after_s"].kind == "number > 0 \\| null"
    assert by_key["runtime.hung_after_s"].default == "`null`"


@pytest.mark.parametrize("verb", settings.VERBS)
def test_every_setting_of_a_verb_has_a_meaning(verb: str) -> None:
    own = settings.verb_settings(verb)
    assert own
    assert [setting.key for setting in own if not setting.meaning] == []


@pytest.mark.slow
@pytest.mark.parametrize("group", settings.CHOSEN)
def test_every_setting_of_a_choice_has_a_meaning(group: str) -> None:
    found = settings.chosen_settings(group)
    assert found.keys() == set(settings.CHOSEN[group])
    without = [s.key for own in found.values() for s in own if not s.meaning]
    assert without == []


NOT_ON_ARXIV = {"siamese": "a workshop paper"}


@pytest.mark.slow
def test_every_method_has_a_page_with_its_paper_and_its_mathematics() -> None:
    pages = methods.method_pages()
    assert pages.keys() == {"index", *ALGORITHMS}
    for name in ALGORITHMS:
        assert f"]({name}.md)" in pages["index"]
        assert "https://arxiv.org/abs/" in pages[name] or name in NOT_ON_ARXIV
        assert "```text" in pages[name], "no equations"


def test_a_docstring_becomes_markdown() -> None:
    """Indented lines, also of several paragraphs, are one block of code."""
    found = text.markdown("Title.\n\nUse ``x``:\n\n    a = 1\n      b\n\n    c\n\nEnd.")
    assert found == "Title.\n\nUse `x`:\n\n```text\na = 1\n  b\n\nc\n```\n\nEnd.\n"


def test_a_meaning_becomes_a_cell() -> None:
    assert text.cell("how large; None: any | all") == "How large; `null`: any \\| all"


def test_the_page_of_data_sets_has_every_one() -> None:
    files = {path.stem for path in (ROOT / "dmeta" / "tasks" / "datasets").glob("[a-z]*.py")}
    assert set(declared_sets()) == files - {"quickdraw"}  # which has no images, but arrays
    page = data_sets_page()
    named = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert named - {"task="} == files | {"miniimagenet", "omniglot"}
    assert "| 0/0/38 | Download kaggle.com/saroz014" in page
    assert "(licence: CC BY 4.0)" in page


def test_links_of_the_cluster_pages_lead_to_files() -> None:
    for page, at in ((cluster_page(ROOT), "cluster"), (grafana_page(ROOT), "cluster/grafana")):
        links = [part.split(")")[0] for part in page.split("](")[1:]]
        files = [link for link in links if not link.startswith(("#", "http"))]
        assert files, at
        folder = ROOT / "docs" / "reference" / "generated"
        assert [f for f in files if not Path(folder, f.partition("#")[0]).resolve().exists()] == []
