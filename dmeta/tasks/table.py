"""Few-shot tasks of a table: regression in groups, or classification of rows.

With ``task.group`` a task is a group (a school, a patient, an assay) and its target is a number.
Without, the target is a class, and a task is a set of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from dmeta.tasks.class_splits import (
    Division,
    Ratio,
    SplitBy,
    SplitClasses,
    given_split,
    split_classes,
    warn_of_left_out,
)
from dmeta.tasks.data_root import own_file
from dmeta.tasks.features import FeatureClasses
from dmeta.tasks.file_digest import checked_digest
from dmeta.tasks.grouped_rows import GroupedRows
from dmeta.tasks.source import SPLITS
from dmeta.tasks.table_columns import Mask, encoded_columns, is_missing, numbers_of, standardized
from dmeta.tasks.table_files import TableRow, read_rows

_SPLIT = "split"


def load_table(
    *,
    file: str = "",
    target: str = "",
    group: str | None = None,
    inputs: tuple[str, ...] | None = None,
    ignore: tuple[str, ...] = (),
    standardize: bool = True,
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    min_per_group: PositiveInt = 1,
    sha256: str | None = None,
) -> GroupedRows | FeatureClasses:
    """Tasks of the rows of a table.

    Columns of numbers are standardised, all others become one column for each category; missing
    numbers are marked (`dmeta.tasks.table_columns`). All that follows from the training rows
    alone. Rows without a target, or without a group, are not used.

    Args:
        file: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, on this machine or a URL. A column
            ``split``, if there is one, says which split a row is in.
        target: the column to predict: a number if `group` is given, else a class.
        group: the column whose values are the tasks; None: a classification of rows.
        inputs: columns to predict from; None: all but the target, the group and `ignore`.
        ignore: columns not to predict from, such as row numbers.
        standardize: columns of numbers, and the target of a regression, have mean 0 and standard
            deviation 1 over the training rows. A mean squared error is then a share of the
            target's variance.
        split_by: ``class``: a group (a class) is in one split alone; ``example``: the rows of each
            are divided, and test tasks have the groups (the classes) of training.
        split_ratio: shares of train, val and test, where the table has no column ``split``.
        split_seed: of that division.
        min_per_group: groups (classes) with fewer rows are left out.
        sha256: check sum that the file must have; None: any. A run notes that of its file.

    Raises:
        ValueError: the file is no such table, or lacks a column.
    """
    division = Division(split_by, split_ratio, split_seed)
    division.check()
    path = own_file(file, "task.file", "a table")
    digest = checked_digest(path, sha256)
    rows = read_rows(path)
    used = _columns(path, rows, target, group, inputs, ignore)
    label = target if group is None else group
    key, goal = label.lower(), target.lower()
    rows = [r for r in rows if not (is_missing(_cell(r, key)) or is_missing(_cell(r, goal)))]
    found = split_classes(
        [_cell(row, key) for row in rows],
        [given_split(path, row.line, row.cells) for row in rows],
        division,
        min_per_group,
    )
    warn_of_left_out(path, {"groups with fewer rows than task.min_per_group": found.left_out})
    rows = [rows[row] for row in found.rows]
    is_training = _training_rows(found)
    columns = [(name, [_cell(row, name.lower()) for row in rows]) for name in used]
    x = encoded_columns(columns, is_training, standardize).values
    splits = {split: np.array(found.splits[split], dtype=np.int64) for split in SPLITS}
    if group is None:
        return FeatureClasses(x, found.class_names, found.starts, splits, digest)
    y = _target(path, target, [_cell(row, goal) for row in rows])
    y = standardized(y, is_training) if standardize else y
    return GroupedRows(x, y[:, None], found.class_names, found.starts, splits, digest)


def _columns(
    path: Path,
    rows: Sequence[TableRow],
    target: str,
    group: str | None,
    inputs: Sequence[str] | None,
    ignore: Sequence[str],
) -> list[str]:
    """The columns to predict from.

    Raises:
        ValueError: a named column is not there, or none is left.
    """
    there = list(dict.fromkeys(name for row in rows for name in row.cells))
    named = {"target": [target], "inputs": inputs or (), "ignore": ignore}
    named["group"] = [] if group is None else [group]
    for option, names in named.items():
        for name in names:
            if name.lower() not in there:
                raise ValueError(
                    f"task.{option} must be of the columns of {path} ({', '.join(there[:12])}"
                    f"{', ...' if len(there) > 12 else ''}), got {name!r}; correct it"
                )
    left_out = {name.lower() for name in (target, group or target, *ignore)} | {_SPLIT}
    found = list(inputs) if inputs is not None else [n for n in there if n not in left_out]
    if not found or {name.lower() for name in found} & {target.lower()}:
        raise ValueError(
            f"task.inputs must be at least one column and not the target, got {found}; correct it"
        )
    return found


def _cell(row: TableRow, column: str) -> str:
    return row.cells.get(column, "").strip()


def _training_rows(found: SplitClasses) -> Mask:
    is_training = np.zeros(len(found.rows), dtype=np.bool_)
    for c in found.splits["train"]:
        is_training[found.starts[c] : found.starts[c + 1]] = True
    return is_training


def _target(path: Path, name: str, cells: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:  # noqa: E501  # fmt: skip
    numbers = numbers_of(cells)
    if numbers is None:
        wrong = next(cell for cell in cells if numbers_of([cell]) is None)
        raise ValueError(
            f"column {name} of {path} must be finite numbers, as the target of a regression, got "
            f"{wrong!r}; correct it, or leave task.group out for a classification"
        )
    return numbers.astype(np.float32)
