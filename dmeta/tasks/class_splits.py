"""Labelled examples as classes of splits: as the data say it, or divided at random from a seed."""

from __future__ import annotations

import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from dmeta.tasks.classes import IntArray, make_starts
from dmeta.tasks.source import SPLITS, Split

SplitBy: TypeAlias = Literal["class", "example"]
"""``class``: a class is in one split alone; ``example``: the examples of each class are divided."""

Ratio: TypeAlias = tuple[float, float, float]
"""Shares of train, val and test."""


SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
"""What folders and columns call the splits, in lower case."""


class Division(NamedTuple):
    """How classes are divided where the data do not say it.

    Attributes:
        by: see `SplitBy`.
        ratio: shares of train, val and test.
        seed: of the division.
    """

    by: SplitBy
    ratio: Ratio
    seed: int

    def check(self) -> None:
        """Raises ValueError unless no share is negative and not all are 0."""
        if min(self.ratio) < 0 or not 0 < sum(self.ratio) < float("inf"):
            raise ValueError(
                "task.split_ratio must be the shares of train, val and test, each >= 0 and not all "
                f"0, got {list(self.ratio)}; set task.split_ratio=[0.6,0.2,0.2]"
            )


class SplitClasses(NamedTuple):
    """Classes and their splits.

    Attributes:
        rows: [N] numbers of the examples, sorted by class; those that are left out are not there.
        class_names: of the C classes, sorted: their labels, with the split where several splits
            have the label.
        starts: [C + 1] offsets into rows.
        splits: split -> its classes.
        left_out: labels with too few examples.
    """

    rows: IntArray
    class_names: tuple[str, ...]
    starts: IntArray
    splits: Mapping[Split, list[int]]
    left_out: list[str]


class _Group(NamedTuple):
    """Examples of one label, and of one split if that is known."""

    label: str
    split: Split | None
    rows: IntArray


def split_classes(
    labels: Sequence[str],
    splits: Sequence[Split | None],
    division: Division,
    min_per_class: int,
) -> SplitClasses:
    """Make classes of examples.

    Args:
        labels: [N] of the examples.
        splits: [N] of the examples, as the data say it; all None: they do not.
        division: how labels, or their examples, are divided then.
        min_per_class: labels (of a split) with fewer examples are left out.

    Raises:
        ValueError: a label is in several splits, and `division` does not say that this is meant.
    """
    division.check()
    rows: dict[tuple[str, Split | None], list[int]] = {}
    for row, key in enumerate(zip(labels, splits, strict=True)):
        rows.setdefault(key, []).append(row)
    groups = [_Group(*key, np.array(own, dtype=np.int64)) for key, own in sorted(rows.items())]
    small = [group.label for group in groups if len(group.rows) < min_per_class]
    groups = [group for group in groups if len(group.rows) >= min_per_class]
    if any(group.split for group in groups):
        _check_given(groups, division.by)
    elif division.by == "class":
        groups = _divided_labels(groups, division)
    else:
        groups = [part for group in groups for part in _divided_examples(group, division)]
    return _sorted(groups, small)


def _check_given(groups: Sequence[_Group], by: SplitBy) -> None:
    split_of: dict[str, Split | None] = {}
    for group in groups:
        other = split_of.setdefault(group.label, group.split)
        if other != group.split and by == "class":
            raise ValueError(
                f"a class must be in one split, got {group.label!r} in {other} and {group.split}; "
                "correct the splits, or set task.split_by=example to test on the classes of "
                "training"
            )


def _divided_labels(groups: Sequence[_Group], division: Division) -> list[_Group]:
    rng = np.random.default_rng(division.seed)
    splits = split_in_ratio(len(groups), division.ratio, rng)
    return [group._replace(split=split) for group, split in zip(groups, splits, strict=True)]


def _divided_examples(group: _Group, division: Division) -> list[_Group]:
    """The parts of a label, which do not depend on other labels."""
    rng = np.random.default_rng([division.seed, zlib.crc32(group.label.encode())])
    splits = np.array(split_in_ratio(len(group.rows), division.ratio, rng))
    parts = [_Group(group.label, split, group.rows[splits == split]) for split in SPLITS]
    return [part for part in parts if len(part.rows)]


def _sorted(groups: Sequence[_Group], left_out: list[str]) -> SplitClasses:
    count = Counter(group.label for group in groups)
    named = {g.label if count[g.label] == 1 else f"{g.label} ({g.split})": g for g in groups}
    ordered = [named[name] for name in sorted(named)]
    rows = [group.rows for group in ordered]
    return SplitClasses(
        np.concatenate(rows) if rows else np.empty(0, dtype=np.int64),
        tuple(sorted(named)),
        make_starts([len(own) for own in rows]),
        {split: [c for c, g in enumerate(ordered) if g.split == split] for split in SPLITS},
        left_out,
    )


def given_split(table: Path, line: int, cells: Mapping[str, str]) -> Split | None:
    """The split that column ``split`` of a row says; None: there is no such column.

    Raises:
        ValueError: it is none.
    """
    name = cells.get("split")
    return None if name is None else named_split(name, f"line {line} of {table}")


def named_split(name: str, where: str) -> Split:
    """The split of that name.

    Raises:
        ValueError: there is none.
    """
    if name.lower() not in SPLIT_NAMES:
        raise ValueError(
            f"a split must be one of {', '.join(SPLITS)}, got {name!r} in {where}; correct it"
        )
    return SPLIT_NAMES[name.lower()]


def warn_of_left_out(where: Path | str, left_out: Mapping[str, Sequence[str]]) -> None:
    """Say what of the data is not used.

    Args:
        where: the data are.
        left_out: why -> names of what is left out.
    """
    reasons = []
    for why, names in left_out.items():
        if names:
            shown = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
            reasons.append(f"{len(names)} {why} ({shown})")
    if reasons:
        warnings.warn(f"left out of {where}: {'; '.join(reasons)}", stacklevel=3)


def split_in_ratio(count: int, ratio: Ratio, rng: np.random.Generator) -> list[Split]:
    """The split of each of `count` things, which are divided at random.

    The shares are met as nearly as whole numbers can; of at least as many things as there are
    splits with a share, each such split gets one.

    Args:
        count: how many.
        ratio: shares of train, val and test, checked by `Division.check`.
        rng: where the randomness comes from.
    """
    exact = np.array(ratio, dtype=np.float64) * count / sum(ratio)
    sizes = np.floor(exact).astype(np.int64)
    wanted = exact > 0
    least = wanted.astype(np.int64) * (count >= np.count_nonzero(wanted))
    sizes = np.maximum(sizes, least)
    while sizes.sum() > count:
        sizes[np.argmax(np.where(sizes > least, sizes - exact, -np.inf))] -= 1
    while sizes.sum() < count:
        sizes[np.argmax(np.where(wanted, exact - sizes, -np.inf))] += 1
    ends = np.cumsum(sizes)
    splits: list[Split] = [SPLITS[0]] * count
    for place, thing in enumerate(rng.permutation(count).tolist()):
        splits[thing] = SPLITS[int(np.searchsorted(ends, place, side="right"))]
    return splits
