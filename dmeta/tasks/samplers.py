"""How many classes and examples a task has: the samplers of `dmeta.tasks.source.EpisodeSize`.

Letters: V classes of a split, W ways of a task, n examples of a class.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dmeta.tasks.sizes import key
from dmeta.tasks.source import EpisodeSize, Sampler, Split

_IntArray = npt.NDArray[np.int64]

_MIN_WAYS = {"uniform": 2, "meta_dataset": 5}

_LOG_WEIGHT = math.log(2.0)  # of Meta-Dataset's classes: weights from 0.5 to 2

OF_CLASSES: tuple[Sampler, ...] = ("fixed", "at_most", "uniform", "meta_dataset")
"""Samplers of sources whose tasks are drawn from classes."""


class Composition(NamedTuple):
    """Which classes a task has, and how many examples of each.

    Attributes:
        chosen: [W] places among the V classes.
        shots: [W] support examples of each.
        queries: [W] query examples of each.
    """

    chosen: _IntArray
    shots: _IntArray
    queries: _IntArray


def min_ways(size: EpisodeSize) -> int:
    """Fewest classes that a task may have."""
    if size.sampler not in _MIN_WAYS:
        return size.ways
    return size.min_ways or min(_MIN_WAYS[size.sampler], size.ways)


def least_examples(size: EpisodeSize) -> int:
    """Examples that a class must have."""
    return 2 if size.sampler in ("at_most", "meta_dataset") else size.shots + size.queries


def check_sampler(split: Split, size: EpisodeSize, known: tuple[Sampler, ...]) -> None:
    """Raises ValueError if the sampler is not one of `known`, or its options are impossible."""
    if size.within != "all" and known != OF_CLASSES:
        raise ValueError(
            f"within must be all for a source without classes, got {size.within}; remove "
            f"{key(split, 'within')}"
        )
    if size.sampler not in known:
        raise ValueError(
            f"sampler must be {' or '.join(known)} for this source, got {size.sampler}; change "
            f"{key(split, 'sampler')}"
        )
    if known == OF_CLASSES and min_ways(size) < 2 <= size.ways:
        raise ValueError(
            "min_ways must be >= 2 (of a single class every prediction is right), got "
            f"{min_ways(size)}; raise {key(split, 'min_ways')}"
        )
    if min_ways(size) > size.ways:
        raise ValueError(
            f"min_ways must be <= ways ({size.ways}), got {min_ways(size)}; lower "
            f"{key(split, 'min_ways')}"
        )
    if size.sampler == "meta_dataset" and size.max_support < size.ways:
        raise ValueError(
            f"max_support must be >= ways ({size.ways}), for each class has an example, got "
            f"{size.max_support}; raise {key(split, 'max_support')}"
        )


def draw_composition(size: EpisodeSize, counts: _IntArray, rng: np.random.Generator) -> Composition:
    """Classes without replacement, all equally likely, and how many examples of each.

    Args:
        size: checked.
        counts: [V] n of each class of the split.
        rng: where the randomness comes from.
    """
    if size.sampler == "meta_dataset":
        return _of_meta_dataset(size, counts, rng)
    ways = size.ways
    if size.sampler == "uniform":
        ways = _ways(size, len(counts), rng)
    shots = draw_shots(size, rng)
    chosen = rng.choice(len(counts), ways, replace=False)
    return Composition(chosen, *capped(shots, size.queries, counts[chosen]))


def draw_shots(size: EpisodeSize, rng: np.random.Generator) -> int:
    """Support examples of each class, or of the group, if there are so many."""
    return int(rng.integers(1, size.shots + 1)) if size.sampler == "uniform" else size.shots


def capped(shots: int, queries: int, counts: Any) -> tuple[Any, Any]:
    """Shots and queries of classes or groups with so many examples; the support set comes first.

    Args:
        shots: wanted.
        queries: wanted.
        counts: n of each, an array or a number; at least 2.
    """
    support = np.minimum(shots, counts - 1)
    return support, np.minimum(queries, counts - support)


def _ways(size: EpisodeSize, num_classes: int, rng: np.random.Generator) -> int:
    return int(rng.integers(min_ways(size), min(size.ways, num_classes) + 1))


def _of_meta_dataset(size: EpisodeSize, counts: _IntArray, rng: np.random.Generator) -> Composition:
    """Triantafillou et al. 2020 (arXiv:1903.03096), section 3.2 and its code.

    With its settings ways 50, shots 100, queries 10, at least 5 ways and 500 support examples. Ways
    are uniform. All classes have equally many queries: at most half of the smallest class. The
    support set is as large as a share beta, uniform in (0, 1], of what the classes have besides
    (each counted as `shots` at most); a class gets one example, and of the rest a part in
    proportion to its size times a weight that is log-uniform in [0.5, 2].
    """
    chosen = rng.choice(len(counts), _ways(size, len(counts), rng), replace=False)
    of_class = counts[chosen]
    queries = min(size.queries, int(of_class.min()) // 2)
    left = of_class - queries
    beta = rng.uniform()
    wanted = np.floor(beta * np.minimum(size.shots, left) + 1).sum()
    rest = min(int(wanted), size.max_support) - len(chosen)
    weights = of_class * np.exp(rng.uniform(-_LOG_WEIGHT, _LOG_WEIGHT, size=len(chosen)))
    shots = np.floor(weights / weights.sum() * rest).astype(np.int64) + 1
    return Composition(chosen, np.minimum(shots, left), np.full(len(chosen), queries))
