"""Few-shot tasks of a table: regression in groups, classification of rows, or one target of many.

With ``task.group`` a task is a group (a school, a patient, an assay) and its target is a number.
Without, the target is a class, and a task is a set of classes. With a list of targets a task is one
of these columns, 0 or 1 (`dmeta.tasks.sparse_targets`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

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
from dmeta.tasks.sparse_targets import SparseTargets
from dmeta.tasks.table_columns import Mask, is_missing, numbers_of, standardized
from dmeta.tasks.table_files import TableRow, read_rows
from dmeta.tasks.table_inputs import Encoding, cell_of, columns_of, encoded_rows, not_a_column
from dmeta.tasks.table_targets import Held, named_columns, sparse_targets, splits_of_targets

_SPLIT = "split"


def load_table(
    *,
    file: str = "",
    target: str | tuple[str, ...] = "",
    group: str | None = None,
    val_target: tuple[str, ...] = (),
    test_target: tuple[str, ...] = (),
    balanced_queries: bool = True,
    inputs: tuple[str, ...] | None = None,
    ignore: tuple[str, ...] = (),
    strings: tuple[str, ...] = (),
    num_features: Annotated[int, Field(ge=8, le=2**20)] = 2048,
    standardize: bool = True,
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    min_per_group: PositiveInt = 1,
    sha256: str | None = None,
) -> GroupedRows | FeatureClasses | SparseTargets:
    """Tasks of the rows of a table.

    Columns of numbers are standardised, all others become one column for each category; missing
    numbers are marked (`dmeta.tasks.table_columns`). All that follows from the training rows
    alone. Rows without a target, or without a group, are not used.

    Args:
        file: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, on this machine or a URL. A column
            ``split``, if there is one, says which split a row is in.
        target: the column to predict: a number if `group` is given, else a class. Or a list of
            columns (``[nr-ahr,sr-*]``) that are 0, 1, or blank where nothing was measured: a task
            is one of them.
        group: the column whose values are the tasks; None: a classification of rows.
        val_target: of a list of targets those of validation tasks. Without it and `test_target`
            they are divided at random, by `split_ratio`.
        test_target: those of test tasks.
        balanced_queries: of a list of targets: query sets have ``task.queries`` of each class;
            false: twice as many of all measured rows, as rare as they are.
        inputs: columns to predict from; None: all but the target, the group and `ignore`.
        ignore: columns not to predict from, such as row numbers.
        strings: columns that become vectors of hashed n-grams of their characters, such as SMILES.
        num_features: places that the n-grams of each of these are hashed to.
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
    digest = checked_digest([path], sha256)
    rows = read_rows(path)
    encoding = Encoding(standardize, strings, num_features)
    if not isinstance(target, str):
        _check_several(group, split_by, rows, path)
        names = named_columns(path, columns_of(rows), target, "task.target")
        used = _columns(path, rows, names, None, inputs, ignore, strings)
        held_out: Held = {"val": val_target, "test": test_target}
        splits = splits_of_targets(path, names, held_out, division)
        return sparse_targets(path, rows, used, names, splits, encoding, balanced_queries, digest)
    _refuse_of_several(val_target, test_target, balanced_queries)
    used = _columns(path, rows, [target], group, inputs, ignore, strings)
    label = target if group is None else group
    key, goal = label.lower(), target.lower()
    rows = [r for r in rows if not (is_missing(cell_of(r, key)) or is_missing(cell_of(r, goal)))]
    found = split_classes(
        [cell_of(row, key) for row in rows],
        [given_split(path, row.line, row.cells) for row in rows],
        division,
        min_per_group,
    )
    warn_of_left_out(path, {"groups with fewer rows than task.min_per_group": found.left_out})
    rows = [rows[row] for row in found.rows]
    is_training = _training_rows(found)
    x = encoded_rows(rows, used, is_training, encoding)
    splits = {split: np.array(found.splits[split], dtype=np.int64) for split in SPLITS}
    if group is None:
        return FeatureClasses(x, found.class_names, found.starts, splits, digest)
    y = _target(path, target, [cell_of(row, goal) for row in rows])
    y = standardized(y, is_training) if standardize else y
    return GroupedRows(x, y[:, None], found.class_names, found.starts, splits, digest)


def _check_several(
    group: str | None, split_by: SplitBy, rows: Sequence[TableRow], path: Path
) -> None:
    """Raises ValueError if a setting or a column makes no sense with several targets."""
    for key, value, wanted in (("group", group, None), ("split_by", split_by, "class")):
        if value != wanted:
            raise ValueError(
                f"task.{key} must be {wanted or 'null'} where task.target is a list, of which a "
                f"task is one, got {value}; remove it"
            )
    if _SPLIT in columns_of(rows):
        raise ValueError(
            f"{path} must have no column {_SPLIT!r} where task.target is a list, for targets are "
            "split and not rows, got one; rename it, and hold targets out with task.test_target"
        )


def _refuse_of_several(
    val_target: Sequence[str], test_target: Sequence[str], balanced_queries: bool
) -> None:
    """Raises ValueError if a setting is given that is read with several targets alone."""
    for key, value, unset in (
        ("val_target", list(val_target), []),
        ("test_target", list(test_target), []),
        ("balanced_queries", balanced_queries, True),
    ):
        if value != unset:
            raise ValueError(
                f"task.{key} must not be set where task.target is one column, got {value}; remove "
                "it, or set task.target to a list of columns"
            )


def _columns(
    path: Path,
    rows: Sequence[TableRow],
    targets: Sequence[str],
    group: str | None,
    inputs: Sequence[str] | None,
    ignore: Sequence[str],
    strings: Sequence[str],
) -> list[str]:
    """The columns to predict from.

    Raises:
        ValueError: a named column is not there, or none is left.
    """
    there = columns_of(rows)
    named = {"target": targets, "inputs": inputs or (), "ignore": ignore, "strings": strings}
    named["group"] = [] if group is None else [group]
    for option, names in named.items():
        for name in names:
            if name.lower() not in there:
                raise not_a_column(path, there, name, f"task.{option}")
    own = {name.lower() for name in targets}
    left_out = {name.lower() for name in (group or "", *ignore)} | own | {_SPLIT}
    found = list(inputs) if inputs is not None else [n for n in there if n not in left_out]
    if not found or {name.lower() for name in found} & own:
        raise ValueError(
            f"task.inputs must be at least one column and not the target, got {found}; correct it"
        )
    return found


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
