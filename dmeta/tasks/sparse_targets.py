"""Few-shot binary classification where a task is one target out of many, of rows that they share.

As the assays of a library of molecules: each was measured for some of the rows alone. Rows that
were not are of neither class. What the rows are is unknown here.

Letters: N rows, D inputs, G targets, V targets of a split, M measurements (pairs of row and
target), K shots, Q queries per class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from dmeta.bilevel.types import Kind
from dmeta.tasks.classes import IntArray
from dmeta.tasks.samplers import check_sampler
from dmeta.tasks.sizes import check_positive, key
from dmeta.tasks.source import SPLITS, DrawnTask, EpisodeSize, Split
from dmeta.tasks.table_columns import FloatArray

_WAYS = 2


@final
@dataclass(frozen=True, eq=False, repr=False)
class SparseTargets:
    """Rows, which of them are 0 and which 1 in each target, and which targets each split has.

    No row of a target has the inputs of another one, so support and query set share none. A row may
    be of several targets, and so of several splits.

    Attributes:
        x: [N, D] float32.
        target_names: of the G targets.
        rows: [M] int64 rows of x; class c (0 or 1) of target g is
            rows[starts[2 g + c]:starts[2 g + c + 1]].
        starts: [2 G + 1] int64 offsets into rows.
        splits: split -> [V] int64 targets.
        balanced_queries: query sets have Q of each class; otherwise 2 Q of the measured rows that
            the support set has left, all equally likely.
        sha256: of the file that they were read from; None: of none.
    """

    x: FloatArray
    target_names: tuple[str, ...]
    rows: IntArray
    starts: IntArray
    splits: Mapping[Split, IntArray]
    balanced_queries: bool = True
    sha256: str | None = None

    metrics: ClassVar[tuple[str, ...]] = ("auroc", "auprc", "accuracy")

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.splits[split]):,} {split}" for split in SPLITS)
        return f"SparseTargets({len(self.x):,} rows of {self.x.shape[1]:,} inputs, {len(self.rows):,} measurements, targets: {counts})"  # noqa: E501  # fmt: skip

    @property
    def kind(self) -> Kind:
        """Classification."""
        return "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(D,)."""
        return self.x.shape[1:]

    def num_outputs(self, ways: int) -> int:
        """One logit per class."""
        return ways

    def split_class_names(self, split: Split) -> tuple[str, ...]:
        """Both classes of each target: ``nr-ahr=0``, ``nr-ahr=1``, ..."""
        return tuple(f"{self.target_names[g]}={c}" for g in self.splits[split] for c in (0, 1))

    def class_examples(self, split: Split, place: int) -> FloatArray:
        """All inputs of the class at `place` of `split_class_names`: [n, D]."""
        target, label = divmod(place, _WAYS)
        return self.x[self._rows(int(self.splits[split][target]), label)]

    def check(self, split: Split, size: EpisodeSize) -> None:
        """Raises ValueError if the split has no target, or one of them too few rows."""
        check_positive(split, size)
        check_sampler(split, size, ("fixed",))
        if size.ways != _WAYS:
            raise ValueError(
                f"ways must be 2 where a task is a target (0 or 1), got {size.ways}; set "
                f"{key(split, 'ways')} to 2"
            )
        targets = self.splits[split]
        if not len(targets):
            raise ValueError(
                f"split {split!r} must have targets, got none; change task.split_ratio, or name "
                "some in task.val_target and task.test_target"
                + ("" if split != "val" else ", or train without validation (eval.every=0)")
            )
        for target in targets.tolist():
            self._check_target(split, target, size)

    def _check_target(self, split: Split, target: int, size: EpisodeSize) -> None:
        counts = [len(self._rows(target, label)) for label in (0, 1)]
        least, needed = min(counts), size.shots + size.queries
        enough, total = (least >= needed), sum(counts)
        if not self.balanced_queries:
            enough = least >= size.shots and total >= _WAYS * needed
        if not enough:
            raise ValueError(
                f"shots + queries must be <= {least} (the {least} of {total} rows of target "
                f"{self.target_names[target]!r} that are {counts.index(least)}), got {needed}; "
                f"lower {key(split, 'queries' if size.shots < least else 'shots')}, or leave the "
                "target out"
            )

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """A target, all equally likely; of it K rows of each class, and the query set.

        A label is the class, 0 or 1, in every task.
        """
        self.check(split, size)
        target = int(rng.choice(self.splits[split]))
        shuffled = [self._shuffled(target, label, size, rng) for label in (0, 1)]
        support = np.concatenate([rows[: size.shots] for rows in shuffled])
        order = rng.permutation(len(support))
        left = [rows[size.shots :] for rows in shuffled]
        query, query_y = np.concatenate(left), np.repeat([0, 1], [len(rows) for rows in left])
        if not self.balanced_queries:
            drawn = np.sort(rng.choice(len(query), size.num_query, replace=False))
            query, query_y = query[drawn], query_y[drawn]
        support_y = np.repeat([0, 1], size.shots)[order]
        return DrawnTask(self.x[support[order]], support_y, self.x[query], query_y)

    def preprocess(self, x: Tensor) -> Tensor:
        """As they are: [..., D] float32."""
        return x.to(torch.float32)

    def _rows(self, target: int, label: int) -> IntArray:
        place = _WAYS * target + label
        return self.rows[self.starts[place] : self.starts[place + 1]]

    def _shuffled(
        self, target: int, label: int, size: EpisodeSize, rng: np.random.Generator
    ) -> IntArray:
        """Rows of a class in random order: those that are needed, or all."""
        rows = self._rows(target, label)
        count = size.shots + size.queries if self.balanced_queries else len(rows)
        return rng.choice(rows, count, replace=False)
