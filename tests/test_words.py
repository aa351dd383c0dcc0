"""Plain words: README, documentation, code and settings avoid some old turns of phrase."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

AVOIDED = {
    "beside": "with, besides, next to, in addition to",
    "anew": "again",
    "mend": "fix, repair",
    "whoever": "anyone who",
    "hears": "receives",
    "troubles": "faults",
    "can not": "cannot",
    "told": "name the action: reported, passed, known",
}
"""Words that are refused, and what to write instead."""

EXCEPTIONS: dict[str, str] = {}
"""Path -> why it may use them. CHANGELOG.md, the history, is not searched."""

FILES = sorted(
    [
        ROOT / "README.md",
        *(p for p in (ROOT / "docs").rglob("*.md") if "generated" not in p.parts),
        *(ROOT / "dmeta").rglob("*.py"),
        *(ROOT / "configs").rglob("*.yaml"),
    ]
)

_PATTERN = re.compile(r"\b(" + "|".join(w.replace(" ", r"\s+") for w in AVOIDED) + r")\b", re.I)


def avoided_in(text: str) -> list[str]:
    """The avoided words of a text, each with its line."""
    return [f"line {text[: m.start()].count(chr(10)) + 1}: {m[0]}" for m in _PATTERN.finditer(text)]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_files_use_plain_words() -> None:
    found = {_name(path): avoided_in(path.read_text(encoding="utf-8")) for path in FILES}
    assert len(found) > 300
    assert {name: words for name, words in found.items() if words and name not in EXCEPTIONS} == {}


def test_an_exception_is_a_file_that_needs_it() -> None:
    for name in EXCEPTIONS:
        assert avoided_in((ROOT / name).read_text(encoding="utf-8")), name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It can not\n# start", ["line 1: can not"]),
        ("one\nWhoever told you", ["line 2: Whoever", "line 2: told"]),
        ("it can\nnot", ["line 1: can\nnot"]),
        ("besides, cannot, amend, unheard, was_told", []),
    ],
)
def test_the_checker_sees_whole_words_alone(text: str, found: list[str]) -> None:
    assert avoided_in(text) == found
