"""Evaluation tasks that are given instead of drawn: support sets, and one query set for all.

What the examples are is unknown here.

Letters: M tasks, S support examples, Q query examples, W ways, N stored examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from dmeta.bilevel.types import Kind
from dmeta.tasks.classes import IntArray
from dmeta.tasks.features import FloatArray
from dmeta.tasks.inputs import InputForm
from dmeta.tasks.sizes import check_split
from dmeta.tasks.source import DrawnTask, EpisodeSize, Split


@final
@dataclass(frozen=True, eq=False, repr=False)
class FixedTasks:
    """M tasks of the same classes, for evaluation: the split test has them, the others nothing.

    Task i is the one of a generator that was seeded with a list of numbers whose last is i, as a
    run seeds that of its slot i.

    Attributes:
        examples: [N, ...] float32.
        class_names: the W names, in the order of the labels.
        support: [M, S] rows of examples, no class without one.
        support_y: [M, S] labels.
        query: [Q] rows of examples.
        query_y: [Q] labels.
        sha256: of the files that they were read from; None: of none.
        input_form: ``unit_vectors`` where the examples were divided by their lengths.
    """

    examples: FloatArray
    class_names: tuple[str, ...]
    support: IntArray
    support_y: IntArray
    query: IntArray
    query_y: IntArray
    sha256: str | None = None
    input_form: InputForm | None = None

    def __repr__(self) -> str:
        return (
            f"FixedTasks({self.num_tasks:,} tasks of {len(self.class_names):,} classes, each with "
            f"{self.support.shape[1]:,} support examples; {len(self.query):,} query examples)"
        )

    @property
    def kind(self) -> Kind:
        """Classification."""
        return "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of an example."""
        return self.examples.shape[1:]

    @property
    def num_tasks(self) -> int:
        """M."""
        return len(self.support)

    @property
    def size(self) -> EpisodeSize:
        """Of each task; of its shots and queries those of the class that has the most."""
        shots = max(int(np.bincount(labels).max()) for labels in self.support_y)
        queries = int(np.bincount(self.query_y).max())
        return EpisodeSize(len(self.class_names), shots, queries, sampler="source")

    def num_outputs(self, ways: int) -> int:
        """One logit per class."""
        return ways

    def check(self, split: Split, size: EpisodeSize) -> None:
        """Raises ValueError unless the split is test and the size is that of the tasks."""
        check_split(split)
        if split != "test":
            raise ValueError(
                f"split {split!r} must have tasks, got fixed ones, which are of split 'test' alone "
                "and are evaluated with a run that was trained without them: dmeta evaluate "
                "run_dir=RUN task.support=... task.query=..."
            )
        if size != self.size:
            raise ValueError(
                f"the size of fixed tasks must be {self.size}, got {size}; remove task.ways, "
                "task.shots and task.queries"
            )

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """Task i modulo M, i the last number that the generator was seeded with.

        Support rows are in an order that looks random: slices of it are fair mini-batches.
        """
        self.check(split, size)
        task = _last_seed(rng) % self.num_tasks
        order = np.random.default_rng(0).permutation(self.support.shape[1])
        rows, labels = self.support[task][order], self.support_y[task][order]
        return DrawnTask(
            self.examples[rows], labels, self.examples[self.query], self.query_y.copy()
        )

    def preprocess(self, x: Tensor) -> Tensor:
        """As they are: float32."""
        return x.to(torch.float32)


def _last_seed(rng: np.random.Generator) -> int:
    seeds = rng.bit_generator.seed_seq.entropy  # type: ignore[attr-defined]  # of numpy's protocol
    return int(np.ravel(seeds)[-1])
