"""The columns of a table that are predicted from, as one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dmeta.tasks.table_columns import FloatArray, Mask, encoded_columns
from dmeta.tasks.table_files import TableRow


class Encoding(NamedTuple):
    """How columns become numbers; see `dmeta.tasks.table_columns.encoded_columns`.

    Attributes:
        standardize: columns of numbers.
        strings: columns that become vectors of n-grams.
        num_features: of each of these.
    """

    standardize: bool
    strings: tuple[str, ...]
    num_features: int


def encoded_rows(
    rows: Sequence[TableRow], used: Sequence[str], is_training: Mask, encoding: Encoding
) -> FloatArray:
    """Columns of some rows as numbers: [N, D].

    Args:
        rows: N rows.
        used: the columns.
        is_training: [N], of which means, categories and frequencies are.
        encoding: how.
    """
    columns = [(name, [cell_of(row, name) for row in rows]) for name in used]
    strings = {name.lower() for name in encoding.strings}
    return encoded_columns(
        columns, is_training, encoding.standardize, strings, encoding.num_features
    ).values


def cell_of(row: TableRow, column: str) -> str:
    """What a row says in a column, whose name is without regard to case."""
    return row.cells.get(column.lower(), "").strip()


def columns_of(rows: Sequence[TableRow]) -> list[str]:
    """Those of all rows, in lower case, in order."""
    return list(dict.fromkeys(name for row in rows for name in row.cells))


def not_a_column(path: Path, there: Sequence[str], name: str, key: str) -> ValueError:
    """The refusal of a setting that names a column which a table does not have."""
    return ValueError(
        f"{key} must be of the columns of {path} ({', '.join(there[:12])}"
        f"{', ...' if len(there) > 12 else ''}), got {name!r}; correct it"
    )
