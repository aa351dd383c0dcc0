"""Which split each class, or each example of a class, is in: by ratio, from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmeta.tasks.source import SPLITS, Split


def check_ratio(ratio: Sequence[float]) -> None:
    """Raises ValueError unless there is a share for each split, none negative, not all 0."""
    if len(ratio) != len(SPLITS) or min(ratio) < 0 or not sum(ratio) > 0:
        raise ValueError(
            "task.split_ratio must be the shares of train, val and test, each >= 0 and not all 0, "
            f"got {list(ratio)}; set task.split_ratio=[0.6,0.2,0.2]"
        )


def split_in_ratio(count: int, ratio: Sequence[float], rng: np.random.Generator) -> list[Split]:
    """The split of each of `count` things, which are assigned at random.

    The shares are met as nearly as whole numbers can; of at least as many things as there are
    splits with a share, each such split gets one.

    Args:
        count: how many.
        ratio: shares of train, val and test, checked by `check_ratio`.
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
    order = rng.permutation(count)
    ends = np.cumsum(sizes)
    splits: list[Split] = [SPLITS[0]] * count
    for place, thing in enumerate(order.tolist()):
        splits[thing] = SPLITS[int(np.searchsorted(ends, place, side="right"))]
    return splits
