"""The protocol of a task source: draws one few-shot task of a split from a random generator.

Sources are plain data (a frozen dataclass of numbers, strings and numpy arrays), because they
cross processes and their arrays are shared by every worker of a node. They know no model, no
algorithm and no runtime, and hold no random state: the generator is always the caller's.

Letters: W ways, K shots, N queries per class; S = W*K support examples, Q = W*N query examples.
For a regression source W is 1. B examples of a mini-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeGuard,
    runtime_checkable,
)

import numpy as np
import numpy.typing as npt
from pydantic import PositiveInt

if TYPE_CHECKING:  # settings are checked before torch is imported
    from torch import Tensor

    from dmeta.bilevel.types import Kind
    from dmeta.metrics.metric import Metric

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


Sampler: TypeAlias = Literal["fixed", "at_most", "uniform", "meta_dataset", "source"]
"""How the sizes of tasks are drawn: see `EpisodeSize`."""


@dataclass(frozen=True)
class EpisodeSize:
    """How large one task is; with a sampler other than ``fixed``, how large at most.

    Attributes:
        ways: classes per task (1 for regression).
        shots: support examples per class.
        queries: query examples per class.
        sampler: how the sizes of tasks are drawn. ``fixed``: all are alike. ``at_most``: a class
            (or group) with too few examples is used with those that it has. ``uniform``: ways and
            shots are drawn uniformly for each task. ``meta_dataset``: that of Meta-Dataset
            (variable ways and shots, unequal classes; `dmeta.tasks.samplers`). ``source``: your own
            source decides.
        min_ways: fewest classes of a task of ``uniform`` (None: 2) and ``meta_dataset`` (None: 5).
        max_support: most support examples of a task of ``meta_dataset``.
        within: ``all``: classes are drawn from all of the split; ``superclass``: from one
            superclass, such as an alphabet, that is drawn first.
    """

    ways: PositiveInt
    shots: PositiveInt
    queries: PositiveInt
    sampler: Sampler = "fixed"
    min_ways: PositiveInt | None = None
    max_support: PositiveInt = 500
    within: Literal["all", "superclass"] = "all"

    @property
    def num_support(self) -> int:
        """S, where all tasks are alike."""
        return self.ways * self.shots

    @property
    def num_query(self) -> int:
        """Q, where all tasks are alike."""
        return self.ways * self.queries


@dataclass(frozen=True)
class BatchSize:
    """How large one mini-batch of all classes of the training split is.

    A method that is trained on such instead of on episodes
    (`dmeta.algorithms.algorithm.trains_on_batches`) gets a task whose support set and query set are
    the same B examples, labelled among all classes.

    Attributes:
        examples: examples of a mini-batch, B.
        classes: classes of the training split; None: as many as the data has. A run notes them, so
            that its network is made again without the data.
        class_sizes: where these are of several data sets, how many are of each, in order; None: of
            one. A run notes them, too.
    """

    examples: PositiveInt
    classes: PositiveInt | None = None
    class_sizes: tuple[PositiveInt, ...] | None = None

    @property
    def ways(self) -> int:
        """The classes that its labels are among."""
        if self.classes is None:
            raise ValueError(
                "task.train_classes must be the number of classes of the training split, got null; "
                "set it"
            )
        return self.classes

    @property
    def ways_of_sets(self) -> tuple[int, ...]:
        """How many of `ways` are of each data set; one number where there is one."""
        return self.class_sizes or (self.ways,)

    @property
    def num_support(self) -> int:
        """B."""
        return self.examples

    @property
    def num_query(self) -> int:
        """B."""
        return self.examples


Size: TypeAlias = EpisodeSize | BatchSize
"""Of what one task slot computes."""


def is_fixed(size: Size) -> bool:
    """Whether all tasks, or mini-batches, are equally large."""
    return isinstance(size, BatchSize) or size.sampler == "fixed"


class DrawnTask(NamedTuple):
    """One task as drawn, in storage form (images still uint8).

    All tasks of a split have the same S and Q, unless the size's sampler is another than ``fixed``;
    then the support set has an example of each of the task's classes. Labels of other whole types,
    and float targets of other types, are converted. A run checks its first tasks before it starts.
    Support rows are in random order, so that consecutive slices are fair mini-batches.

    Attributes:
        support_x: [S, *stored_shape].
        support_y: [S] int64 labels in 0..W-1, or [S, num_outputs] float32 for regression.
        query_x: [Q, *stored_shape].
        query_y: [Q] int64, or [Q, num_outputs] float32.
    """

    support_x: npt.NDArray[np.generic]
    support_y: npt.NDArray[np.generic]
    query_x: npt.NDArray[np.generic]
    query_y: npt.NDArray[np.generic]


class DrawnBatch(NamedTuple):
    """A mini-batch as drawn, in storage form.

    Attributes:
        x: [B, *stored_shape].
        y: [B] int64 labels among all classes of the split.
    """

    x: npt.NDArray[np.generic]
    y: npt.NDArray[np.generic]


class TaskSource(Protocol):
    """Draws tasks. Implementations are frozen dataclasses; methods are pure."""

    @property
    def kind(self) -> Kind:
        """``classification`` or ``regression``: which losses and metrics there are."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example as the network sees it, e.g. (1, 28, 28)."""
        ...

    def num_outputs(self, ways: int) -> int:
        """Width of the network's output for tasks of `ways` classes."""
        ...

    def check(self, split: Split, size: EpisodeSize) -> None:
        """Raises ValueError, naming the class and the key to change, if no such task exists."""
        ...

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """One task of the split; equal generators give equal tasks, to the bit."""
        ...

    def preprocess(self, x: Tensor) -> Tensor:
        """Stored form -> network input, on whatever device x is.

        Args:
            x: [..., *stored_shape], not changed.

        Returns:
            [..., *input_shape] float32, or int64 for whole numbers (token ids, for
            `torch.nn.Embedding`). Other types are converted to these two.
        """
        ...


class HasMetrics(TaskSource, Protocol):
    """A source that says by which metrics its tasks are evaluated, unless a run chooses others."""

    @property
    def metrics(self) -> Sequence[str | Metric]:
        """Names in `dmeta.METRICS`, or its own `dmeta.Metric` objects; the first is primary."""
        ...


def has_metrics(source: TaskSource) -> TypeGuard[HasMetrics]:
    """Whether it has what `HasMetrics` has, itself or by standing in for one that has."""
    return hasattr(source, "metrics")


def samplers_of(source: TaskSource) -> tuple[Sampler, ...]:
    """The samplers of `EpisodeSize` that a source follows: those that its ``samplers`` lists.

    One that lists none draws tasks of one size, or decides itself.
    """
    found: tuple[Sampler, ...] = getattr(source, "samplers", ("fixed", "source"))
    return found


class DrawsBatches(TaskSource, Protocol):
    """A classification source that also draws mini-batches of all classes of a split."""

    def num_classes(self, split: Split) -> int:
        """Classes of the split, among which the labels of a mini-batch are."""
        ...

    def draw_batch(self, split: Split, num_examples: int, rng: np.random.Generator) -> DrawnBatch:
        """Examples of the split, none twice.

        All are equally likely; where the classes are those of several data sets, all of one of
        these.

        Raises:
            ValueError: the split has fewer.
        """
        ...


def draws_batches(source: TaskSource) -> TypeGuard[DrawsBatches]:
    """Whether it has what `DrawsBatches` has, itself or by standing in for one that has."""
    also = ("pick_batch",) if can_pick(source) else ()
    return all(hasattr(source, name) for name in ("num_classes", "draw_batch", *also))


class DrawsOfSeveral(DrawsBatches, Protocol):
    """One whose classes are those of several data sets, numbered one set after the other.

    A mini-batch is of one data set.
    """

    def class_sizes(self, split: Split) -> tuple[int, ...]:
        """How many classes of the split are of each data set; their sum is `num_classes`."""
        ...


def draws_of_several(source: TaskSource) -> TypeGuard[DrawsOfSeveral]:
    """Whether it has what `DrawsOfSeveral` has, itself or by standing in for one that has."""
    return draws_batches(source) and hasattr(source, "class_sizes")


class PicksExamples(DrawsBatches, Protocol):
    """A source whose tasks are rows of one array, which can so lie on the device that computes.

    Its `draw` is `pick`, then `take` of its `examples`.
    """

    @property
    def examples(self) -> npt.NDArray[np.generic]:
        """[N, *stored_shape], all that there are; nobody may write to it."""
        ...

    def pick(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """As `draw`, but of each example only its pick: x are [S, P] and [Q, P] int64."""
        ...

    def pick_batch(self, split: Split, num_examples: int, rng: np.random.Generator) -> DrawnBatch:
        """As `draw_batch`, but of each example only its pick: x is [B, P] int64."""
        ...

    def take(self, examples: Tensor, picks: Tensor) -> Tensor:
        """The picked examples, copied.

        Args:
            examples: [N, *stored_shape], those of this source, on any device.
            picks: [..., P] int64, on the same device.

        Returns:
            [..., *stored_shape].
        """
        ...


def can_pick(source: TaskSource) -> TypeGuard[PicksExamples]:
    """Whether it has what `PicksExamples` has, itself or by standing in for one that has.

    Not if somebody has replaced its `draw` alone: then that is what is meant.

    (From Python 3.12 on `isinstance` does not see what an object hands through.)
    """
    if not all(hasattr(source, name) for name in ("pick", "take", "examples")):
        return False
    owners = [getattr(method, "__self__", None) for method in (source.draw, source.pick)]  # type: ignore[attr-defined]
    return owners[0] is owners[1] and _defines(owners[0], "draw") is _defines(owners[1], "pick")


def _defines(owner: object, name: str) -> type | None:
    """The class that an object has a method from."""
    return next((cls for cls in type(owner).__mro__ if name in vars(cls)), None)


@runtime_checkable
class ListsExamples(Protocol):
    """A classification source that can also hand out all it has, class by class."""

    def split_class_names(self, split: Split) -> tuple[str, ...]:
        """Names of the V classes of a split; no two splits share one."""
        ...

    def class_examples(self, split: Split, place: int) -> npt.NDArray[np.generic]:
        """All examples of the class at `place` in 0..V-1, in storage form: [n, *stored_shape]."""
        ...
