"""README.md: short, with its two commands first, and without broken links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (pip install .*)$", TEXT, flags=re.MULTILINE)


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_its_commands_are_the_first_run_and_the_tests() -> None:
    assert COMMANDS[0].endswith("&& dmeta train")
    assert COMMANDS[1].startswith("pip install -e '.[dev]' && pytest")
    assert COMMANDS[1].split("&& ")[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_link_leads_to_a_file() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert len(links) >= 20
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []
