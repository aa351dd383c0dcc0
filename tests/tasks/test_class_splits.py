from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmeta.tasks.class_splits import Division, split_classes, split_in_ratio
from dmeta.tasks.source import SPLITS, Split

RATIOS = st.tuples(*[st.floats(0, 10)] * 3).filter(lambda ratio: sum(ratio) > 1e-3)


def counts(splits: list[Split]) -> list[int]:
    return [splits.count(split) for split in SPLITS]


@given(count=st.integers(0, 40), ratio=RATIOS, seed=st.integers(0, 5))
def test_shares_are_met_as_nearly_as_whole_numbers_can(
    count: int, ratio: tuple[float, float, float], seed: int
) -> None:
    got = counts(split_in_ratio(count, ratio, np.random.default_rng(seed)))
    exact = [count * share / sum(ratio) for share in ratio]
    assert sum(got) == count
    wanted = [e > 0 for e in exact]
    for number, share, is_wanted in zip(got, exact, wanted, strict=True):
        assert is_wanted or number == 0
        # A split that would have none takes one from another, or two from the largest.
        assert abs(number - share) < 3
    if count >= sum(wanted):
        assert all(number > 0 for number, is_wanted in zip(got, wanted, strict=True) if is_wanted)


def test_every_thing_is_as_likely_in_every_split() -> None:
    found = np.zeros(10)
    for seed in range(2000):
        splits = split_in_ratio(10, (0.6, 0.2, 0.2), np.random.default_rng(seed))
        assert counts(splits) == [6, 2, 2]
        found += [split == "test" for split in splits]
    assert np.abs(found / 2000 - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / 2000)


LABELS = ["b", "a", "c", "a", "b", "a", "d", "d"]
UNSAID: list[Split | None] = [None] * len(LABELS)


def test_rows_are_sorted_by_class() -> None:
    found = split_classes(LABELS, UNSAID, Division("class", (1, 0, 1), 0), 2)
    assert found.class_names == ("a", "b", "d")
    assert found.rows.tolist() == [1, 3, 5, 0, 4, 6, 7]
    assert found.starts.tolist() == [0, 3, 5, 7]
    assert found.left_out == ["c"]
    assert sorted([*found.splits["train"], *found.splits["test"]]) == [0, 1, 2]
    assert found.splits["val"] == []


def test_examples_are_divided_within_each_label() -> None:
    found = split_classes(LABELS, UNSAID, Division("example", (1, 0, 1), 0), 2)
    assert found.class_names == tuple(f"{n} ({s})" for n in "abd" for s in ("test", "train"))
    assert sorted(found.rows.tolist()) == [0, 1, 3, 4, 5, 6, 7]
    for c, name in enumerate(found.class_names):
        own = found.rows[found.starts[c] : found.starts[c + 1]]
        assert {LABELS[row] for row in own} == {name[0]}
    renamed = ["bb" if label == "b" else label for label in LABELS]
    other = split_classes(renamed, UNSAID, Division("example", (1, 0, 1), 0), 2)
    assert other.rows[:3].tolist() == found.rows[:3].tolist()  # a's do not depend on b


def test_splits_that_the_data_say_are_kept() -> None:
    said: list[Split | None] = ["train", "val", "test", "val", "train", "val", "train", "test"]
    with pytest.raises(ValueError, match=r"got 'd' in test and train; .* task\.split_by=example"):
        split_classes(LABELS, said, Division("class", (1, 1, 1), 0), 1)
    found = split_classes(LABELS, said, Division("example", (1, 1, 1), 0), 1)
    names = {s: [found.class_names[c] for c in own] for s, own in found.splits.items()}
    assert names == {"train": ["b", "d (train)"], "val": ["a"], "test": ["c", "d (test)"]}
    assert split_classes([], [], Division("class", (1, 1, 1), 0), 1).class_names == ()


@pytest.mark.parametrize("ratio", [(0, 0, 0), (1, -1, 1), (float("inf"), 1, 1)])
def test_impossible_shares_are_refused(ratio: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"task\.split_ratio must be the shares of train, val"):
        split_classes(LABELS, UNSAID, Division("class", ratio, 0), 1)
