"""Texts with labels in a file of the user's own: a table, or a folder with two files of lines."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeAlias

from dmeta.addresses import is_address, local_path
from dmeta.tasks.class_splits import given_split
from dmeta.tasks.data_root import own_file
from dmeta.tasks.line_pairs import LABELS, TEXTS, is_pair, read_pair
from dmeta.tasks.source import Split
from dmeta.tasks.table_files import checked_rows, read_rows, rows_or_none

_SPLIT = "split"

TextColumn: TypeAlias = str | tuple[str, ...]
"""A column of texts, or several whose texts are joined by line breaks."""


class TextColumns(NamedTuple):
    """Names of columns, without regard to case.

    Attributes:
        text: of texts.
        label: of labels.
    """

    text: TextColumn
    label: str


class TextRow(NamedTuple):
    """A text.

    Attributes:
        line: where it is in its file, from 1.
        text: itself.
        label: of it.
        split: as the file says; None: it does not.
    """

    line: int
    text: str
    label: str
    split: Split | None


def own_texts(value: str, key: str) -> Path:
    """The table, or the folder of `dmeta.tasks.line_pairs`, that a setting names.

    Raises:
        ValueError: there is none.
    """
    if value and not is_address(value) and is_pair(local_path(value)):
        return local_path(value)
    return own_file(value, key, "a table of texts")


def files_of(path: Path) -> list[Path]:
    """The files that `read_texts` reads."""
    return [path / TEXTS, path / LABELS] if path.is_dir() else [path]


def is_empty(path: Path) -> bool:
    """Whether it is a table without rows."""
    return not path.is_dir() and not rows_or_none(path)


def read_texts(path: Path, columns: TextColumns) -> list[TextRow]:
    """The texts of a table (see `read_rows`), or of a folder (see `read_pair`).

    Raises:
        ValueError: it is no such table.
    """
    rows = read_pair(path) if path.is_dir() else read_rows(path)
    names = (columns.text,) if isinstance(columns.text, str) else columns.text
    if not names:
        raise ValueError("task.text_column must name a column, got none; name one")
    return [
        TextRow(
            line,
            "\n".join(cells[name] for name in names),
            cells[columns.label],
            given_split(path, line, cells),
        )
        for line, cells in checked_rows(path, rows, (*names, columns.label), (_SPLIT,))
    ]
