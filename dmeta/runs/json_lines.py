"""JSON lines files that may be truncated or edited: lines that are no rows are counted.

Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

LARGEST = 2**63 - 1

_NUMBERS = ("train", "val")
"""Events of metrics.jsonl whose other values are numbers, or lists of them."""


class Rows(NamedTuple):
    """The rows of a file.

    Attributes:
        rows: those that are whole.
        bad: numbers (from 1) of the lines that are no row; not of a last one without an end, which
            a killed process leaves.
    """

    rows: list[dict[str, Any]]
    bad: list[int]


def read_rows(path: Path) -> Rows:
    """The rows of a file of metrics: JSON objects, each with its event and step."""
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    found = Rows([], [])
    for number, line in enumerate(lines, 1):
        row = parsed(line)
        if row is not None and is_metrics(row):
            found.rows.append(row)
        elif line.strip():
            found.bad.append(number)
    row = parsed(last)
    if row is not None and is_metrics(row):
        found.rows.append(row)
    return found


def lines_backwards(path: Path) -> Iterator[dict[str, Any] | None]:
    """What each line holds, the last first; None: not a JSON object. Empty ones are left out."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for at, line in enumerate(reversed(lines)):
        row = parsed(line)
        if row is not None or (line.strip() and at > 0):
            yield row


def parsed(line: bytes) -> dict[str, Any] | None:
    """A JSON object; None: something else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def is_metrics(row: Mapping[str, Any]) -> bool:
    """Whether it is a row of metrics."""
    event, step = row.get("event"), row.get("step")
    if not isinstance(event, str) or type(step) is not int or not 0 <= step <= LARGEST:
        return False
    return event not in _NUMBERS or all(
        map(_is_number, (v for k, v in row.items() if k != "event"))
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_number, value))
    if isinstance(value, int):
        return abs(value) <= LARGEST
    return value is None or isinstance(value, float)
