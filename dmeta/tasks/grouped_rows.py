"""Few-shot regression of rows in groups: a task is a group, such as a school or a patient.

What the numbers mean is unknown here.

Letters: N rows, D inputs, G groups, V groups of a split, K shots, Q queries.
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
from dmeta.tasks.samplers import capped, check_sampler, draw_shots, least_examples
from dmeta.tasks.sizes import check_positive, key
from dmeta.tasks.source import SPLITS, DrawnTask, EpisodeSize, Sampler, Split
from dmeta.tasks.table_columns import FloatArray


@final
@dataclass(frozen=True, eq=False, repr=False)
class GroupedRows:
    """Rows sorted by group, and which groups each split has.

    Attributes:
        x: [N, D] float32; group g is rows starts[g]:starts[g + 1].
        y: [N, 1] float32.
        group_names: of the G groups.
        starts: [G + 1] int64 offsets into x and y.
        splits: split -> [V] int64 groups.
        sha256: of the file that they were read from; None: of none.
    """

    x: FloatArray
    y: FloatArray
    group_names: tuple[str, ...]
    starts: IntArray
    splits: Mapping[Split, IntArray]
    sha256: str | None = None

    samplers: ClassVar[tuple[Sampler, ...]] = ("fixed", "at_most", "uniform")

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.splits[split]):,} {split}" for split in SPLITS)
        return f"GroupedRows({len(self.x):,} rows of {self.x.shape[1]} inputs, groups: {counts})"

    @property
    def kind(self) -> Kind:
        """Regression."""
        return "regression"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(D,)."""
        return self.x.shape[1:]

    def num_outputs(self, ways: int) -> int:  # noqa: ARG002 - the protocol's signature
        """One number, whatever the ways."""
        return 1

    def check(self, split: Split, size: EpisodeSize) -> None:
        """Raises ValueError if the split has no group, or one of them too few rows."""
        check_positive(split, size)
        if size.ways != 1:
            raise ValueError(
                f"ways must be 1 for a regression, got {size.ways}; set {key(split, 'ways')} to 1"
            )
        groups = self.splits[split]
        if not len(groups):
            raise ValueError(
                f"split {split!r} must have groups, got none; change task.split_ratio"
                + ("" if split != "val" else ", or train without validation (eval.every=0)")
            )
        check_sampler(split, size, self.samplers)
        counts = self.starts[groups + 1] - self.starts[groups]
        least, needed = int(np.argmin(counts)), least_examples(size)
        if needed > counts[least]:
            raise ValueError(
                f"shots + queries must be <= {counts[least]} (group "
                f"{self.group_names[groups[least]]!r}), got {needed}; lower {key(split, 'shots')}, "
                "leave out small groups with task.min_per_group, or set task.sampler=at_most"
                if size.sampler != "at_most"
                else f"every group must have 2 rows at least, got {counts[least]} of group "
                f"{self.group_names[groups[least]]!r}; leave it out with task.min_per_group=2"
            )

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """A group, all equally likely; of it K + Q rows without replacement."""
        self.check(split, size)
        group = int(rng.choice(self.splits[split]))
        first, count = self.starts[group], self.starts[group + 1] - self.starts[group]
        wanted = draw_shots(size, rng)
        shots, queries = (int(n) for n in capped(wanted, size.queries, count))
        rows = first + rng.choice(count, shots + queries, replace=False)
        support, query = rows[:shots], rows[shots:]
        return DrawnTask(self.x[support], self.y[support], self.x[query], self.y[query])

    def preprocess(self, x: Tensor) -> Tensor:
        """As they are: [..., D] float32."""
        return x.to(torch.float32)
