"""Draws a few-shot classification task, or a mini-batch, from rows that are sorted by class.

What the rows are (images, features) is unknown here, and so what a pick of one says besides its
number.

Letters: N rows, C stored classes, V classes of a split, W ways, S support and Q query examples, B
examples of a mini-batch, P numbers of a pick.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.tasks.samplers import (
    OF_CLASSES,
    check_sampler,
    draw_composition,
    least_examples,
    min_ways,
)
from dmeta.tasks.sizes import check_positive, key
from dmeta.tasks.source import (
    SPLITS,
    DrawnBatch,
    DrawnTask,
    EpisodeSize,
    ListsExamples,
    PicksExamples,
    Split,
)

IntArray = npt.NDArray[np.int64]


_WITHOUT: Mapping[Split, str] = {
    "train": ", or train on another data set",
    "val": ", or train without validation (eval.every=0)",
    "test": "",
}
"""What else to do if a split has no class."""


class Episode(NamedTuple):
    """One task as row numbers.

    Attributes:
        chosen: [W] places in the split's list of classes; label w is the w-th of them.
        support: [S] rows, in random order.
        support_y: [S] labels.
        query: [Q] rows, sorted by label.
        query_y: [Q] labels.
    """

    chosen: IntArray
    support: IntArray
    support_y: IntArray
    query: IntArray
    query_y: IntArray


def check_episode(
    split: Split, size: EpisodeSize, classes: IntArray, starts: IntArray, names: Sequence[str]
) -> None:
    """Raises ValueError if the split has too few classes, or one of them too few rows.

    Args:
        split: the split.
        size: of the wanted task.
        classes: [V] stored class of each class of the split.
        starts: [C + 1] offsets into the rows.
        names: of the C stored classes.
    """
    check_positive(split, size)
    if not len(classes):
        raise ValueError(
            f"split {split!r} must have classes, got none; change the splits of the data, or "
            f"task.split_ratio{_WITHOUT[split]}"
        )
    check_sampler(split, size, OF_CLASSES)
    most, of = len(classes), ""
    if size.within == "superclass":
        most = int(np.bincount(_superclasses(split, classes, names)).max())
        of = " of the largest superclass"
    if min_ways(size) > most:
        name = "ways" if min_ways(size) == size.ways else "min_ways"
        raise ValueError(
            f"{name} must be <= {most} (classes{of} of split {split!r}), got {min_ways(size)}; "
            f"lower {key(split, name)}"
        )
    counts = starts[classes + 1] - starts[classes]
    least = int(np.argmin(counts))
    needed = least_examples(size)
    if needed > counts[least]:
        if size.sampler in ("at_most", "meta_dataset"):
            raise ValueError(
                f"every class must have 2 examples at least, got {counts[least]} of class "
                f"{names[classes[least]]!r}; leave out small classes"
            )
        too_many = "queries" if size.shots < counts[least] else "shots"
        raise ValueError(
            f"shots + queries must be <= {counts[least]} (class {names[classes[least]]!r}), got "
            f"{needed}; lower {key(split, too_many)}"
            + (f", or set {key(split, 'sampler')} to at_most" if size.sampler == "fixed" else "")
        )


def draw_episode(
    split: Split,
    size: EpisodeSize,
    classes: IntArray,
    starts: IntArray,
    names: Sequence[str],
    rng: np.random.Generator,
) -> Episode:
    """W classes without replacement; of each, its shots and queries without replacement.

    Labels 0..W-1 follow the order in which the classes were drawn. W and the numbers of examples
    are as the size's sampler draws them. Within a superclass: one that has enough classes, all
    equally likely.

    Args:
        split: the split.
        size: checked by `check_episode`.
        classes: [V] stored class of each class of the split.
        starts: [C + 1] offsets into the rows.
        names: of the C stored classes.
        rng: where the randomness comes from.
    """
    places = np.arange(len(classes))
    if size.within == "superclass":
        owners = _superclasses(split, classes, names)
        large = np.flatnonzero(np.bincount(owners) >= min_ways(size))
        places = np.flatnonzero(owners == rng.choice(large))
    of_places = classes[places]
    sizes = starts[of_places + 1] - starts[of_places]
    drawn_places, shots, queries = draw_composition(size, sizes, rng)
    chosen = places[drawn_places]
    drawn = _draw_distinct(sizes[drawn_places], int((shots + queries).max()), rng)
    rows = starts[classes[chosen]][:, None] + drawn
    column, labels = np.arange(drawn.shape[1]), np.arange(len(chosen))
    in_support = column < shots[:, None]
    in_query = ~in_support & (column < (shots + queries)[:, None])
    order = rng.permutation(shots.sum())
    return Episode(
        chosen,
        rows[in_support][order],
        np.repeat(labels, shots)[order],
        rows[in_query],
        np.repeat(labels, queries),
    )


def _superclasses(split: Split, classes: IntArray, names: Sequence[str]) -> IntArray:
    """[V] which superclass each class of a split is of: the part of its name before the last ``/``.

    Raises:
        ValueError: a name has no such part.
    """
    return _numbered_owners(split, tuple(names[c] for c in classes.tolist()))


@functools.lru_cache(maxsize=16)
def _numbered_owners(split: Split, names: tuple[str, ...]) -> IntArray:
    owners = [name.rpartition("/")[0] for name in names]
    if "" in owners:
        raise ValueError(
            f"{key(split, 'within')}=superclass must have classes whose names are "
            f"superclass/class, got {names[owners.index('')]!r}; rename the classes, or set it to "
            "all"
        )
    numbers: IntArray = np.unique(owners, return_inverse=True)[1].astype(np.int64)
    return numbers


def draw_rows(
    split: Split, num_rows: int, classes: IntArray, starts: IntArray, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """B rows of a split without replacement, all equally likely.

    Args:
        split: the split, for messages.
        num_rows: B.
        classes: [V] stored class of each class of the split.
        starts: [C + 1] offsets into the rows.
        rng: where the randomness comes from.

    Returns:
        [B] places of their classes in 0..V-1, and [B] rows.

    Raises:
        ValueError: the split has fewer.
    """
    counts = starts[classes + 1] - starts[classes]
    ends = np.cumsum(counts)
    if num_rows > ends[-1]:
        raise ValueError(
            f"task.train_examples must be <= {ends[-1]} (examples of split {split!r}), got "
            f"{num_rows}; lower it"
        )
    drawn = _draw_distinct(ends[-1:], num_rows, rng)[0]
    places = np.searchsorted(ends, drawn, side="right")
    return places, starts[classes[places] + 1] - ends[places] + drawn


def class_counts(source: ListsExamples) -> str:
    """How many classes each split has, in words."""
    counts = [f"{len(source.split_class_names(split)):,} {split}" for split in SPLITS]
    return f"classes: {', '.join(counts)}"


def drawn_from(source: PicksExamples, picked: DrawnTask) -> DrawnTask:
    """A picked task with its examples: what `TaskSource.draw` gives."""
    support_x, query_x = (_taken(source, x) for x in (picked.support_x, picked.query_x))
    return DrawnTask(support_x, picked.support_y, query_x, picked.query_y)


def batch_from(source: PicksExamples, picked: DrawnBatch) -> DrawnBatch:
    """A picked mini-batch with its examples: what `DrawsBatches.draw_batch` gives."""
    return DrawnBatch(_taken(source, picked.x), picked.y)


def _taken(source: PicksExamples, picks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    examples = shared_tensor(source.examples)
    taken: npt.NDArray[Any] = source.take(examples, torch.from_numpy(picks)).numpy()
    return taken


def shared_tensor(array: npt.NDArray[Any]) -> Tensor:
    """The array's own memory as a tensor. It must only be read; torch cannot enforce that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def rows_of(examples: Tensor, rows: Tensor) -> Tensor:
    """Copies of examples [N, ...] at rows [...]: [*rows.shape, ...]."""
    # Not examples[rows]: on a CPU that copies number by number, ten times as slowly for images.
    return examples.index_select(0, rows.flatten()).view(*rows.shape, *examples.shape[1:])


def _draw_distinct(counts: IntArray, k: int, rng: np.random.Generator) -> IntArray:
    """[W, k]: row w holds k distinct numbers of 0..counts[w]-1, each ordered choice as likely.

    Of a class with fewer, only the first counts[w] mean something.

    The first k steps of a Fisher-Yates shuffle. Only the places that a step has swapped are
    remembered, so the cost does not grow with the class, and one call of the generator serves
    all rows (`Generator.choice` would be called once per class).
    """
    places = rng.integers(np.minimum(np.arange(k), counts[:, None] - 1), counts[:, None])
    picked = np.empty_like(places)
    for w, row in enumerate(places.tolist()):
        moved: dict[int, int] = {}
        for i, place in enumerate(row):
            picked[w, i] = moved.get(place, place)
            moved[place] = moved.get(i, i)
    return picked


def make_starts(counts: list[int]) -> IntArray:
    """Class sizes -> [C + 1] offsets."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
