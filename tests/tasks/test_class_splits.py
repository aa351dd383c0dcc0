from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmeta.tasks.class_splits import check_ratio, split_in_ratio
from dmeta.tasks.source import SPLITS, Split

RATIOS = st.lists(st.floats(0, 10), min_size=3, max_size=3).filter(lambda r: sum(r) > 1e-3)


def counts(splits: list[Split]) -> list[int]:
    return [splits.count(split) for split in SPLITS]


@given(count=st.integers(0, 40), ratio=RATIOS, seed=st.integers(0, 5))
def test_shares_are_met_as_nearly_as_whole_numbers_can(
    count: int, ratio: list[float], seed: int
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


@pytest.mark.parametrize("ratio", [(1, 1), (1, 1, 1, 1), (0, 0, 0), (1, -1, 1)])
def test_impossible_shares_are_refused(ratio: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"task\.split_ratio must be the shares of train, val"):
        check_ratio(ratio)
