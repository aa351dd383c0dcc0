"""The tests that the documentation names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_test_that_a_page_names_is_there() -> None:
    """By the beginning of its name at least."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"\b(tests/[\w/]+\.py)(?:::(test_\w+))?", text))
    assert len(named) > 50
    missing = [
        f"{file}::{test}"
        for file, test in sorted(named)
        if not (ROOT / file).is_file()
        or (test and f"def {test}" not in (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_a_test_that_is_named_without_its_file_is_somewhere() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?<![\w.])::(test_\w+)", text))
    assert named
    assert [test for test in sorted(named) if f"def {test}" not in tests] == []
