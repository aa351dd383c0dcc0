"""A hundred thousand tasks of a source: apart, balanced, and as likely as they should be.

Letters: N tasks, V classes of a split, W ways of a task, M examples of a class.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.tasks import TASKS
from dmeta.tasks.source import SPLITS, EpisodeSize, Split
from tests.tasks.numbers import chi_square_bound

NUM = 2_000
DATA = Path(os.environ.get("DMETA_DATA", "data"))


def in_shared(name: str, path: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        if not (DATA / path).exists():
            pytest.skip(f"{DATA / path} is not there")
        own = {key: value.format(data=DATA) if isinstance(value, str) else value for key, value in options.items()}  # noqa: E501  # fmt: skip
        return TASKS[name].make(**own)

    return make


SOURCES = {
    "glyphs": (lambda: TASKS["glyphs"].make(num_classes=60, drawings=9), EpisodeSize(5, 2, 3)),
    "omniglot": (in_shared("omniglot", "omniglot"), EpisodeSize(5, 1, 5)),
    "miniimagenet": (in_shared("miniimagenet", "mini-imagenet"), EpisodeSize(5, 5, 15)),
    "sign digits": (
        in_shared("image_folder", "sign-digits", root="{data}/sign-digits", size=28, channels=1,
                  split_ratio=(0.5, 0.2, 0.3)),
        EpisodeSize(2, 2, 5),
    ),
    "cifar10": (
        in_shared("image_folder", "cifar10", root="{data}/cifar10/cifar10-images.zip", size=32,
                  split_by="example"),
        EpisodeSize(5, 5, 10),
    ),
    "table": (
        in_shared("table", "tables", file="{data}/tables/exam.csv", target="school",
                  min_per_group=20),
        EpisodeSize(5, 4, 6),
    ),
}  # fmt: skip


def content(source: Any) -> np.ndarray[Any, Any]:
    """Number of what each stored example is: equal for equal ones."""
    seen: dict[bytes, int] = {}
    rows = (hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16) for row in source.examples)  # noqa: E501  # fmt: skip
    return np.array([seen.setdefault(each.digest(), len(seen)) for each in rows])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out of")
@pytest.mark.parametrize("name", SOURCES)
def test_tasks_are_apart_balanced_and_equally_likely(name: str) -> None:
    make, size = SOURCES[name]
    source = make()
    names = [set(source.split_class_names(split)) for split in SPLITS]
    assert len(set.union(*names)) == sum(map(len, names))
    what = content(source)
    repeats = len(what) - len(np.unique(what))
    report = [f"{name}: {len(what):,} examples, {repeats} repeats"]
    split: Split
    for split in ("train", "test"):
        report.append(f"{split} {_checked(source, split, size, what, repeats)}")
    print("; ".join(report))


def _checked(source: Any, split: Split, size: EpisodeSize, what: Any, repeats: int) -> str:
    num_classes, counts = source.num_classes(split), {}
    of_class = np.zeros(num_classes, np.int64)
    drawn = np.zeros(len(what), np.int64)
    in_both = 0
    place_of = _places(source, split)
    for i in range(NUM):
        task = source.pick(split, size, np.random.default_rng([9, i]))
        assert np.bincount(task.support_y).tolist() == [size.shots] * size.ways
        assert np.bincount(task.query_y).tolist() == [size.queries] * size.ways
        pairs = np.concatenate([task.support_x, task.query_x])
        np.add.at(drawn, pairs[:, 0], 1)
        if len({*map(tuple, pairs.tolist())}) != len(pairs):
            raise AssertionError(f"task {i} has an example twice")
        in_both += bool(_shown(task.support_x, what) & _shown(task.query_x, what))
        of_class[place_of(task)] += 1
    assert repeats or not in_both
    assert in_both <= NUM * 0.001 * max(1, repeats)
    # Classes of a task are distinct: the statistic is smaller than of draws with replacement.
    expected = NUM * size.ways / num_classes
    scale = (num_classes - 1) / (num_classes - size.ways) if num_classes > size.ways else 1.0
    classes = float(((of_class - expected) ** 2 / expected).sum() * scale)
    assert classes < chi_square_bound(num_classes - 1)
    counts["classes"] = f"chi-square of {num_classes} classes {classes:.0f}"
    counts["rows"] = _rows_equally_likely(source, split, size, drawn)
    return ", ".join(counts.values()) + f", {in_both} tasks with equal content in both sets"


def _shown(picks: Any, what: Any) -> set[Any]:
    """What is seen of the picked examples: their content, and how they are turned."""
    return {(content, *turn) for content, turn in zip(what[picks[:, 0]].tolist(), picks[:, 1:].tolist(), strict=True)}  # noqa: E501  # fmt: skip


def _places(source: Any, split: Split) -> Callable[[Any], Any]:
    """Task -> [W] which classes of the split it has."""
    owner = np.searchsorted(source.starts, np.arange(source.starts[-1]), side="right") - 1
    classes = np.asarray(source.splits[split])
    pairs = classes if classes.ndim == 2 else np.stack([classes, np.zeros_like(classes)], 1)
    number = {tuple(pair): place for place, pair in enumerate(pairs.tolist())}

    def places(task: Any) -> list[int]:
        first = [int(np.flatnonzero(task.support_y == w)[0]) for w in range(task.support_y.max() + 1)]  # noqa: E501  # fmt: skip
        picks = task.support_x[first]
        turns = picks[:, 1] if picks.shape[1] > 1 else np.zeros(len(picks), np.int64)
        return [number[int(owner[row]), int(turn)] for row, turn in zip(picks[:, 0], turns, strict=True)]  # noqa: E501  # fmt: skip

    return places


def _rows_equally_likely(source: Any, split: Split, size: EpisodeSize, drawn: Any) -> str:
    """Within each class; in a task its examples are distinct."""
    total, freedom = 0.0, 0
    taken = size.shots + size.queries
    stored = np.unique(np.asarray(source.splits[split]).reshape(len(source.splits[split]), -1)[:, 0])  # noqa: E501  # fmt: skip
    for c in stored.tolist():
        own = drawn[source.starts[c] : source.starts[c + 1]]
        m = len(own)
        if m <= taken or not own.sum():
            continue
        expected = own.sum() / m
        total += float(((own - expected) ** 2 / expected).sum()) * (m - 1) / (m - taken)
        freedom += m - 1
    assert total < chi_square_bound(freedom)
    return f"of {freedom} degrees of freedom for examples {total:.0f}"
