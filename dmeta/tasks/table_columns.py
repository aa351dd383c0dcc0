"""Columns of a table as numbers: standardised, categories one-hot, strings as hashed n-grams.

Everything that is learned from the data (means, standard deviations, categories) is of the
training rows alone.

Letters: N rows, D columns of the result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dmeta.tasks.ngrams import ngram_vectors, string_ngrams

FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MAX_CATEGORIES = 100
_MISSING = ("", "na", "nan", "null", "none", "?")


class Encoded(NamedTuple):
    """Columns as numbers.

    Attributes:
        values: [N, D] float32.
        names: of the D columns.
    """

    values: FloatArray
    names: tuple[str, ...]


def numbers_of(cells: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """[N], NaN where nothing is said; None: they are not all numbers."""
    try:
        found = np.array([np.nan if is_missing(cell) else float(cell) for cell in cells])
    except ValueError:
        return None
    return None if np.isinf(found).any() else found


def is_missing(cell: str) -> bool:
    """Whether it says nothing: empty, ``NA``, ``NaN``, ``null``, ``none`` or ``?``."""
    return cell.strip().lower() in _MISSING


def encoded_columns(
    columns: Sequence[tuple[str, Sequence[str]]],
    is_training: Mask,
    standardize: bool,
    strings: Collection[str] = (),
    num_features: int = 0,
) -> Encoded:
    """All columns as numbers.

    A column of numbers is standardised by its training rows. Where it lacks some, the mean stands
    for them and a column ``NAME is missing`` says so. A column of strings has ``NAME#0``,
    ``NAME#1``, ... (`dmeta.tasks.ngrams`). Any other column has a column ``NAME=CATEGORY`` for each
    category of the training rows; others are 0 in all of them.

    Args:
        columns: names and cells [N] of each.
        is_training: [N].
        standardize: whether columns of numbers are.
        strings: names of those that are strings, in lower case.
        num_features: places that the n-grams of each of these are hashed to.

    Raises:
        ValueError: a column has too many categories.
    """
    values: list[npt.NDArray[np.float64]] = []
    vectors: list[FloatArray] = []
    names: list[str] = []
    hashed: list[str] = []
    for name, cells in columns:
        if name.lower() in strings:
            vectors.append(ngram_vectors(cells, num_features, is_training, string_ngrams))
            hashed += [f"{name}#{place}" for place in range(num_features)]
            continue
        numbers = numbers_of(cells)
        if numbers is None:
            own = _categories(name, cells, is_training)
            values += [np.array([cell == each for cell in cells], dtype=np.float64) for each in own]
            names += [f"{name}={each}" for each in own]
            continue
        known = ~np.isnan(numbers)
        mean, spread = _moments(numbers[known & is_training])
        filled = np.where(known, numbers, mean)
        values.append((filled - mean) / spread if standardize else filled)
        names.append(name)
        if not known.all():
            values.append((~known).astype(np.float64))
            names.append(f"{name} is missing")
    if values:
        vectors.insert(0, np.stack(values, axis=1).astype(np.float32))
    return Encoded(np.concatenate(vectors, axis=1), (*names, *hashed))


def standardized(values: FloatArray, is_training: Mask) -> FloatArray:
    """[N] with mean 0 and standard deviation 1 over the training rows."""
    mean, spread = _moments(values[is_training].astype(np.float64))
    return ((values - mean) / spread).astype(np.float32)


def _moments(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation; 1 instead of 0."""
    if not len(values):
        return 0.0, 1.0
    spread = float(values.std())
    return float(values.mean()), spread if spread > 0 else 1.0


def _categories(name: str, cells: Sequence[str], is_training: Mask) -> list[str]:
    found = sorted({cell for cell, own in zip(cells, is_training, strict=True) if own})
    if len(found) > MAX_CATEGORIES:
        raise ValueError(
            f"column {name} must be numbers, or have at most {MAX_CATEGORIES} categories, got "
            f"{len(found)} (such as {found[0]!r}); leave it out with task.ignore, name the columns "
            "to use in task.inputs, or take its characters with task.strings"
        )
    return found
