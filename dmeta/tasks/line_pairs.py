"""Reads a folder with texts and labels line by line in two files: ``seq.in`` and ``label``.

The form of the published few-shot splits of intents (Zhang et al. 2020, arXiv:2010.13009,
github.com/jianguoz/Few-Shot-Intent-Detection).
"""

from __future__ import annotations

from pathlib import Path

from dmeta.tasks.archives import read_texts
from dmeta.tasks.class_splits import warn_of_left_out
from dmeta.tasks.table_files import TableRow

TEXTS, LABELS = "seq.in", "label"
"""Names of the two files."""


def is_pair(path: Path) -> bool:
    """Whether it is a folder with the two files."""
    return all((path / name).is_file() for name in (TEXTS, LABELS))


def read_pair(path: Path) -> list[TableRow]:
    """The lines of the two files as rows with the columns ``text`` and ``label``.

    Blank lines of texts are left out together with their labels, and named in a warning.

    Raises:
        ValueError: the files have not as many lines, a label is blank, or there is no text.
    """
    texts, labels = (_lines(content) for content in read_texts(path, [TEXTS, LABELS]))
    if len(texts) != len(labels):
        raise ValueError(
            f"{TEXTS} and {LABELS} must have a line for each text, got {len(texts)} and "
            f"{len(labels)} lines in {path}; correct them (a blank line counts, too)"
        )
    rows, blank = [], []
    for line, (text, label) in enumerate(zip(texts, labels, strict=True), 1):
        if not label.strip():
            raise ValueError(
                f"every line of {path / LABELS} must be a label, got nothing in line {line}; fill "
                "it in"
            )
        if text.strip():
            rows.append(TableRow(line, {"text": text, "label": label}))
        else:
            blank.append(f"line {line}")
    warn_of_left_out(path, {f"blank lines of {TEXTS}": blank})
    if not rows:
        raise ValueError(f"{path / TEXTS} must have at least one text, got none; add some")
    return rows


def _lines(content: str) -> list[str]:
    """Without what follows the last line break; other characters that end a line do not."""
    lines = content.split("\n")
    return lines[:-1] if lines[-1] == "" else lines
