"""Rows of a table in a file (csv, tsv, JSON or parquet) as texts, with every column checked.

What the columns mean is unknown here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dmeta.tasks.archives import read_texts

_CSV, _PARQUET = (".csv", ".tsv", ".txt"), (".parquet",)
_JSON_LINES, _JSON = (".jsonl", ".ndjson"), (".json",)
_ENDINGS = (*_CSV, *_JSON_LINES, *_JSON, *_PARQUET)
_SEPARATORS = (",", ";", "\t")


class TableRow(NamedTuple):
    """One row.

    Attributes:
        line: of the file, from 1; of parquet and of a JSON list the row, from 1.
        cells: column -> its text.
    """

    line: int
    cells: Mapping[str, str]


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[TableRow]:
    """The rows of a table, whose cells must all be there.

    Args:
        path: see `read_rows`.
        columns: that every row must have, none empty; names without regard to case.
        optional: columns that the table may have; then no row may lack one.

    Returns:
        at least one row, with these columns alone.

    Raises:
        ValueError: the file is no such table.
    """
    return checked_rows(path, read_rows(path), columns, optional)


def read_rows(path: Path) -> list[TableRow]:
    """The rows of a table as they are: columns in lower case, cells that may be empty.

    Args and errors: see `rows_or_none`; there must be a row, too.
    """
    found = rows_or_none(path)
    if not found:
        raise ValueError(f"{path} must have at least one row, got none; add some")
    return found


def rows_or_none(path: Path) -> list[TableRow]:
    """As `read_rows`, also of a table that has no rows.

    Args:
        path: ``.csv``, ``.tsv`` or ``.txt`` (UTF-8, the columns named in the first line and
            separated by comma, semicolon or tab), ``.jsonl`` (an object a line), ``.json`` (a list
            of objects) or ``.parquet``.

    Raises:
        ValueError: the file is no such table.
    """
    ending = path.suffix.lower()
    if ending in _CSV:
        rows = _csv_rows(path)
    elif ending in _JSON_LINES:
        rows = _json_line_rows(path)
    elif ending in _JSON:
        rows = _json_rows(path)
    elif ending in _PARQUET:
        rows = _parquet_rows(path)
    else:
        raise ValueError(
            f"a table must be a file that ends in {', '.join(_ENDINGS)}, got {path}; rename or "
            "convert it"
        )
    return list(rows)


def checked_rows(
    path: Path, rows: Sequence[TableRow], columns: Sequence[str], optional: Sequence[str]
) -> list[TableRow]:
    """The rows with the wanted columns alone; arguments and errors as of `read_table`."""
    known = set().union(*(row.cells for row in rows))
    wanted = [*columns, *(name for name in optional if name.lower() in known)]
    if lacking := [name for name in columns if name.lower() not in known]:
        raise ValueError(
            f"{path} must have the columns {', '.join(columns)}, got {_few(sorted(known))}; name "
            f"one of them {lacking[0]}, or say which one is meant"
        )
    found = []
    for row in rows:
        cells = {name: row.cells.get(name.lower(), "").strip() for name in wanted}
        for name, cell in cells.items():
            if not cell:
                raise ValueError(
                    f"column {name} of {path} must not be empty, got nothing in line {row.line}; "
                    "fill it in, or remove the row"
                )
        found.append(TableRow(row.line, cells))
    return found


def _csv_rows(path: Path) -> Iterator[TableRow]:
    text = read_texts(path.parent, [path.name])[0]
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(_SEPARATORS, key=header.count))
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _header(path, cells)
            elif len(cells) != len(columns):
                raise ValueError(
                    f"every line of {path} must have {len(columns)} cells, got {len(cells)} in "
                    f"line {reader.line_num}; quote cells with a separator in them"
                )
            else:
                yield TableRow(reader.line_num, dict(zip(columns, cells, strict=True)))
    except csv.Error as error:  # an endless field, say
        raise ValueError(
            f"{path} must be a csv file, got line {reader.line_num} that is none ({error}); save "
            "it as csv again"
        ) from None


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    columns = [cell.strip().lower() for cell in cells]
    if repeated := [name for name in columns if name and columns.count(name) > 1]:
        raise ValueError(
            f"every column of {path} must have a name of its own, got {repeated[0]!r} twice; "
            "rename one"
        )
    return columns


def _json_line_rows(path: Path) -> Iterator[TableRow]:
    text = read_texts(path.parent, [path.name])[0]
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        row = _parsed(content)
        if not isinstance(row, dict):
            raise ValueError(
                f"every line of {path} must be a JSON object, got line {line} that is none; "
                "correct it"
            )
        yield TableRow(line, _json_cells(row))


def _json_rows(path: Path) -> Iterator[TableRow]:
    rows = _parsed(read_texts(path.parent, [path.name])[0])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{path} must be a JSON list of objects, got something else; correct it, or name it "
            ".jsonl if it has an object a line"
        )
    yield from (TableRow(number, _json_cells(row)) for number, row in enumerate(rows, 1))


def _parsed(content: str) -> Any:
    """JSON as plain data; None if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _json_cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {name.strip().lower(): _text(cell) for name, cell in row.items()}


def _parquet_rows(path: Path) -> Iterator[TableRow]:
    from pyarrow import parquet  # takes long to import

    try:
        table = parquet.ParquetFile(path).read()
    except Exception as error:  # of pyarrow, any of many
        raise ValueError(
            f"{path} must be a parquet file that can be read, got: {error}; write it again"
        ) from None
    columns = _header(path, table.column_names)
    for line, cells in enumerate(zip(*(c.to_pylist() for c in table.columns), strict=True), 1):
        yield TableRow(line, {n: _text(c) for n, c in zip(columns, cells, strict=True)})


def _text(cell: Any) -> str:
    """Of a value; nothing for what is none."""
    return "" if cell is None or cell != cell else str(cell)


def _few(names: Sequence[str]) -> str:
    return ", ".join(name[:40] for name in names[:8]) + (", ..." if len(names) > 8 else "")
