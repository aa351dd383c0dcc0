"""Few-shot classification of your own texts: a table with a column of texts and one of labels.

Texts become vectors (`dmeta.tasks.ngrams`); classes are split as the table says, or by ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from dmeta.tasks.class_splits import (
    Division,
    Ratio,
    SplitBy,
    given_split,
    split_classes,
    warn_of_left_out,
)
from dmeta.tasks.data_root import own_file
from dmeta.tasks.features import FeatureClasses
from dmeta.tasks.file_digest import checked_digest
from dmeta.tasks.ngrams import ngram_vectors, words
from dmeta.tasks.source import SPLITS
from dmeta.tasks.table_files import TableRow, read_table

_SPLIT = "split"
_REPEATED = "texts with the words of another one"
_SMALL = "classes with fewer texts than task.min_per_class"


def load_text(
    *,
    file: str = "",
    text_column: str = "text",
    label_column: str = "label",
    num_features: Annotated[int, Field(ge=8, le=2**20)] = 2048,
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    min_per_class: PositiveInt = 1,
    sha256: str | None = None,
) -> FeatureClasses:
    """Tasks of the texts in a table.

    Texts of the same words count once in a class. Those that are in several classes are left out
    of all of them.

    Args:
        file: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, on this machine or a URL. A column
            ``split``, if there is one, says which split a row is in.
        text_column: name of the column of texts.
        label_column: name of the column of labels.
        num_features: places that n-grams are hashed to: numbers of a vector.
        split_by: ``class``: a class is in one split alone, so that test tasks have new classes;
            ``example``: the texts of each class are divided, and test tasks have the classes of
            training.
        split_ratio: shares of train, val and test, where the table has no column ``split``.
        split_seed: of that division.
        min_per_class: classes with fewer texts are left out.
        sha256: check sum that the file must have; None: any. A run notes that of its file.

    Raises:
        ValueError: the file is no such table, or a class is in two splits.
    """
    division = Division(split_by, split_ratio, split_seed)
    division.check()
    path = own_file(file, "task.file", "a table of texts")
    digest = checked_digest([path], sha256)
    rows = read_table(path, (text_column, label_column), (_SPLIT,))
    used = _without_repeats(rows, text_column, label_column)
    texts = [cells[text_column] for _, cells in used]
    found = split_classes(
        [cells[label_column] for _, cells in used],
        [given_split(path, line, cells) for line, cells in used],
        division,
        min_per_class,
    )
    lines = {row.line for row in used}
    repeated = [f"line {row.line}" for row in rows if row.line not in lines]
    warn_of_left_out(path, {_REPEATED: repeated, _SMALL: found.left_out})
    ordered = [texts[row] for row in found.rows]
    is_training = np.zeros(len(ordered), dtype=np.bool_)
    for c in found.splits["train"]:
        is_training[found.starts[c] : found.starts[c + 1]] = True
    return FeatureClasses(
        ngram_vectors(ordered, num_features, is_training),
        found.class_names,
        found.starts,
        {split: np.array(found.splits[split], dtype=np.int64) for split in SPLITS},
        digest,
        input_form="unit_vectors",
    )


def _without_repeats(rows: Sequence[TableRow], text: str, label: str) -> list[TableRow]:
    """Of rows with the same words the first, or none if their labels differ."""
    same: dict[str, list[TableRow]] = {}
    for row in rows:
        same.setdefault(" ".join(words(row.cells[text])), []).append(row)
    used = [own[0] for own in same.values() if len({row.cells[label] for row in own}) == 1]
    return sorted(used, key=lambda row: row.line)
