"""Reads a table in which several columns are targets: 0, 1, or blank where nothing was measured."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dmeta.tasks.class_splits import Division, split_in_ratio, warn_of_left_out
from dmeta.tasks.classes import IntArray, make_starts
from dmeta.tasks.source import SPLITS, Split
from dmeta.tasks.sparse_targets import SparseTargets
from dmeta.tasks.table_columns import numbers_of
from dmeta.tasks.table_files import TableRow
from dmeta.tasks.table_inputs import Encoding, cell_of, encoded_rows, not_a_column

Held = Mapping[Split, Sequence[str]]
"""Split -> targets that are held out for it, as they were named."""

_CONTRADICTED = "measurements of rows with the same inputs that contradict each other"
_REPEATED = "measurements that repeat one of a row with the same inputs"


def named_columns(path: Path, there: Sequence[str], patterns: Sequence[str], key: str) -> list[str]:
    """The columns of some names or patterns (``nr-*``), in the order of the table.

    Args:
        path: of the table, for messages.
        there: its columns, in lower case.
        patterns: without regard to case.
        key: of the setting, for messages.

    Raises:
        ValueError: one of them is of no column.
    """
    found: set[str] = set()
    for pattern in patterns:
        own = fnmatch.filter(there, pattern.lower())
        if not own:
            raise not_a_column(path, there, pattern, key)
        found.update(own)
    return [name for name in there if name in found]


def splits_of_targets(
    path: Path, targets: Sequence[str], held_out: Held, division: Division
) -> dict[Split, IntArray]:
    """Split -> places of its targets: those held out for it, or divided at random.

    Raises:
        ValueError: a target is held out for two splits, or is none of the targets.
    """
    if not any(held_out.values()):
        rng = np.random.default_rng(division.seed)
        drawn = np.array(split_in_ratio(len(targets), division.ratio, rng))
        return {split: np.flatnonzero(drawn == split) for split in SPLITS}
    split_of: dict[str, Split] = {}
    for split, names in held_out.items():
        for name in named_columns(path, targets, names, f"task.{split}_target"):
            if split_of.setdefault(name, split) != split:
                raise ValueError(
                    f"a target must be held out for one split, got {name!r} in task.val_target and "
                    "task.test_target; remove it from one"
                )
    return {
        split: np.array(
            [g for g, name in enumerate(targets) if split_of.get(name, "train") == split],
            dtype=np.int64,
        )
        for split in SPLITS
    }


def sparse_targets(
    path: Path,
    rows: Sequence[TableRow],
    inputs: Sequence[str],
    targets: Sequence[str],
    splits: Mapping[Split, IntArray],
    encoding: Encoding,
    balanced_queries: bool,
    sha256: str,
) -> SparseTargets:
    """The rows as tasks.

    Rows whose inputs are the same count once in a target, and not at all if they contradict each
    other there.

    Args:
        path: of the table, for messages.
        rows: of the table.
        inputs: columns to predict from.
        targets: columns to predict.
        splits: split -> places of its targets.
        encoding: of the inputs; training rows are those that are measured for a training target.
        balanced_queries: see `SparseTargets`.
        sha256: of the file.
    """
    contents = [tuple(cell_of(row, name) for name in inputs) for row in rows]
    number: dict[tuple[str, ...], int] = {}
    own = np.array([number.setdefault(content, len(number)) for content in contents])
    distinct = _first_rows(rows, own)
    members: list[IntArray] = []
    left_out: dict[str, list[str]] = {_CONTRADICTED: [], _REPEATED: []}
    for name in targets:
        values = _measured(path, name, rows)
        classes = [np.unique(own[values == label], return_index=True) for label in (0, 1)]
        both = np.intersect1d(classes[0][0], classes[1][0])
        members += [np.setdiff1d(contents, both) for contents, _ in classes]
        used = [np.flatnonzero(values == label)[first] for label, (_, first) in enumerate(classes)]
        repeats = np.setdiff1d(np.flatnonzero(~np.isnan(values)), np.concatenate(used))
        left_out[_REPEATED] += [f"{name} in line {rows[row].line}" for row in repeats]
        left_out[_CONTRADICTED] += [f"{name} of line {distinct[row].line}" for row in both]
    warn_of_left_out(path, left_out)
    is_training = np.zeros(len(distinct), dtype=np.bool_)
    for target in splits["train"]:
        is_training[np.concatenate(members[2 * target : 2 * target + 2])] = True
    return SparseTargets(
        encoded_rows(distinct, inputs, is_training, encoding),
        tuple(targets),
        np.concatenate(members).astype(np.int64),
        make_starts([len(each) for each in members]),
        splits,
        balanced_queries,
        sha256,
    )


def _first_rows(rows: Sequence[TableRow], own: IntArray) -> list[TableRow]:
    """The first row of each content, in the order of their numbers."""
    _, places = np.unique(own, return_index=True)
    return [rows[place] for place in places]


def _measured(path: Path, name: str, rows: Sequence[TableRow]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:  # noqa: E501  # fmt: skip
    """[N] 0, 1, or NaN where nothing was measured."""
    cells = [row.cells.get(name, "") for row in rows]
    values = numbers_of(cells)
    if values is None or not np.isin(values[~np.isnan(values)], (0, 1)).all():
        wrong = next(cell for cell in cells if not _is_measurement(cell))
        raise ValueError(
            f"column {name} of {path} must be 0, 1 or blank, as one of several targets, got "
            f"{wrong!r}; correct it, or leave it out of task.target"
        )
    return values


def _is_measurement(cell: str) -> bool:
    value = numbers_of([cell])
    return value is not None and bool(np.isnan(value[0]) or value[0] in (0, 1))
