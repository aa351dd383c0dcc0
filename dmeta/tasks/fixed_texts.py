"""Reads support sets and a query set of texts from files: the tasks of published comparisons.

How texts become vectors is unknown here.

Letters: M tasks, S support examples, Q query examples.
"""

from __future__ import annotations

import glob
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmeta.addresses import is_address, local_path
from dmeta.tasks.class_splits import warn_of_left_out
from dmeta.tasks.features import FloatArray
from dmeta.tasks.file_digest import checked_digest
from dmeta.tasks.fixed_tasks import FixedTasks
from dmeta.tasks.text_files import TextColumns, TextRow, files_of, is_empty, own_texts, read_texts

_WILD = "*?["


class _TextSet(NamedTuple):
    """The texts of one file."""

    path: Path
    rows: list[TextRow]


def load_fixed_texts(
    support: str, query: str, columns: TextColumns, vectors: Callable[[Sequence[str]], FloatArray]
) -> FixedTasks:
    """A task for each support set.

    Files are used as they are: texts that are repeated in one, or are in both sets, stay. A warning
    says how many query texts are in a support set.

    Args:
        support: a file, or a pattern with ``*`` of several, see `text_files.own_texts`. Of several,
            those without rows are left out.
        query: a file.
        columns: their columns.
        vectors: texts -> [number of texts, D].

    Raises:
        ValueError: a file is none of texts with labels, or the sets do not fit together.
    """
    sets = _support_sets(support, columns)
    asked = _TextSet(own_texts(query, "task.query"), [])
    asked.rows.extend(read_texts(asked.path, columns))
    _check_sets(sets)
    _check_labels(asked, sets[0])
    _warn_of_shared(sets, asked)
    names = sorted({row.label for row in sets[0].rows})
    rows = [row for each in sets for row in each.rows] + asked.rows
    labels = np.array([names.index(row.label) for row in rows], dtype=np.int64)
    examples = vectors([row.text for row in rows])
    end = len(rows) - len(asked.rows)
    shape = (len(sets), len(sets[0].rows))
    paths = [file for each in (*sets, asked) for file in files_of(each.path)]
    return FixedTasks(
        examples,
        tuple(names),
        np.arange(end).reshape(shape),
        labels[:end].reshape(shape),
        np.arange(end, len(rows)),
        labels[end:],
        checked_digest(paths, None),
        input_form="unit_vectors",
    )


def _support_sets(support: str, columns: TextColumns) -> list[_TextSet]:
    """In order of their names; at least one."""
    if is_address(support) or not any(sign in support for sign in _WILD):
        path = own_texts(support, "task.support")
        return [_TextSet(path, read_texts(path, columns))]
    named = sorted(glob.glob(str(local_path(support))))  # noqa: PTH207 - also absolute ones
    paths = [own_texts(path, "task.support") for path in named]
    empty = [path for path in paths if is_empty(path)]
    sets = [_TextSet(path, read_texts(path, columns)) for path in paths if path not in empty]
    warn_of_left_out(support, {"support sets without rows": [path.name for path in empty]})
    if not sets:
        raise ValueError(
            f"task.support must name files with rows, got {support!r}, which names "
            f"{len(empty) or 'none'}{' without rows' if empty else ''}; correct it"
        )
    return sets


def _check_sets(sets: Sequence[_TextSet]) -> None:
    """All must have as many examples, of the same classes."""
    first = sets[0]
    classes = {row.label for row in first.rows}
    if len(classes) < 2:
        raise ValueError(
            f"a support set must have at least two classes, got {len(classes)} in {first.path}; "
            "correct task.support"
        )
    for other in sets[1:]:
        if len(other.rows) != len(first.rows):
            raise ValueError(
                "all support sets must have as many examples, got "
                f"{len(first.rows)} in {first.path} and {len(other.rows)} in {other.path}; name "
                "fewer files in task.support"
            )
        if differing := {row.label for row in other.rows} ^ classes:
            raise ValueError(
                f"all support sets must have the same classes, got {min(differing)!r} in one of "
                f"{first.path} and {other.path} alone; name fewer files in task.support"
            )


def _check_labels(asked: _TextSet, first: _TextSet) -> None:
    known = {row.label for row in first.rows}
    for row in asked.rows:
        if row.label not in known:
            raise ValueError(
                f"every label of task.query must be in the support sets, got {row.label!r} in line "
                f"{row.line} of {asked.path}, which {first.path} has not; remove such rows"
            )


def _warn_of_shared(sets: Sequence[_TextSet], asked: _TextSet) -> None:
    given = {row.text for each in sets for row in each.rows}
    counts = Counter(row.text for row in asked.rows)
    shared = sum(count for text, count in counts.items() if text in given)
    repeated = len(asked.rows) - len(counts)
    if shared or repeated:
        warnings.warn(
            f"of the {len(asked.rows):,} query texts in {asked.path} {shared:,} are also in a "
            f"support set and {repeated:,} repeat an earlier one; all are used, as the files say",
            stacklevel=2,
        )
