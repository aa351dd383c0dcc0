"""Few-shot forecasting of your own series: a table with a series in each row (as the M4 files)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from dmeta.tasks.class_splits import Division, Ratio, SplitBy, split_in_ratio
from dmeta.tasks.classes import make_starts
from dmeta.tasks.data_root import own_file
from dmeta.tasks.file_digest import check_digest, checked_digest
from dmeta.tasks.forecasts import FloatArray, Forecasts
from dmeta.tasks.source import SPLITS, Split
from dmeta.tasks.table_columns import is_missing, numbers_of
from dmeta.tasks.table_files import TableRow, read_rows


def load_forecast(
    *,
    file: str = "",
    test_file: str | None = None,
    horizon: PositiveInt = 1,
    history: PositiveInt = 1,
    season: PositiveInt = 1,
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    sha256: str | None = None,
) -> Forecasts:
    """Tasks of the series in a table, each of which is a row: its name, then its values.

    Args:
        file: ``.csv`` or ``.tsv``, on this machine or a URL. Rows of shorter series end in empty
            cells.
        test_file: another one with what followed, by the same names; test tasks forecast its first
            values. None: they forecast the last values of `file`.
        horizon: values to forecast.
        history: values before them, which are the input.
        season: values of a season, such as 24 of hours; 1: none.
        split_by: ``class``: a series is in one split alone, so that test tasks have new series;
            ``example``: all series are in every split, and training ends two horizons before the
            end: one for validation, one for test.
        split_ratio: shares of train, val and test, where series are divided.
        split_seed: of that division.
        sha256: check sum that the files must have; None: any. A run notes that of its files.

    Raises:
        ValueError: a file is no such table.
    """
    division = Division(split_by, split_ratio, split_seed)
    division.check()
    path = own_file(file, "task.file", "a table of series")
    digest = checked_digest([path], None)
    past, after = _series(path), {}
    if test_file is not None:
        test_path = own_file(test_file, "task.test_file", "a table of series")
        digest = hashlib.sha256(f"{digest}{checked_digest([test_path], None)}".encode()).hexdigest()
        after = _series(test_path)
        _check_followed(test_path, past, after, horizon)
    must = "task.file must be the file that the run was begun with"
    check_digest(digest, sha256, must, path)
    whole = [np.concatenate([past[name], after.get(name, [])[:horizon]]) for name in past]
    ends = np.array([len(values) for values in whole])
    splits = {split: np.arange(len(whole)) for split in SPLITS}
    limits: dict[Split, int] = {"train": 2 * horizon, "val": horizon, "test": 0}
    if split_by == "class":
        drawn = split_in_ratio(len(whole), split_ratio, np.random.default_rng(split_seed))
        splits = {split: np.flatnonzero(np.array(drawn) == split) for split in SPLITS}
        limits = dict.fromkeys(SPLITS, 0)
    return Forecasts(
        np.concatenate(whole),
        tuple(past),
        make_starts(ends.tolist()),
        splits,
        {split: ends - limits[split] for split in SPLITS},
        history,
        horizon,
        season,
        digest,
    )


def _series(path: Path) -> dict[str, FloatArray]:
    """Name -> values."""
    found: dict[str, FloatArray] = {}
    for row in read_rows(path):
        name, values = _values(path, row)
        if name in found:
            raise ValueError(
                f"every series of {path} must have a name of its own, got {name!r} twice; rename "
                "one"
            )
        found[name] = values
    return found


def _values(path: Path, row: TableRow) -> tuple[str, FloatArray]:
    name, *cells = (cell.strip() for cell in row.cells.values())
    while cells and is_missing(cells[-1]):
        cells.pop()
    values = numbers_of(cells) if cells else None
    if values is None or np.isnan(values).any():
        wrong = next((c for c in cells if is_missing(c) or numbers_of([c]) is None), "")
        raise ValueError(
            f"line {row.line} of {path} must be a name and numbers without gaps, got {wrong!r}; "
            "correct it, or interpolate"
        )
    return name, values


def _check_followed(
    path: Path, past: Mapping[str, FloatArray], after: Mapping[str, FloatArray], horizon: int
) -> None:
    for name in past:
        count = len(after.get(name, ()))
        if count < horizon:
            raise ValueError(
                f"task.test_file must have at least {horizon} values (task.horizon) of each "
                f"series, got {count} of {name!r} in {path}; lower task.horizon"
            )
