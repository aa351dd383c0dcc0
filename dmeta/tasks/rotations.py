"""Quarter turns of square images: as classes of their own, or at random in each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from dmeta.tasks.classes import IntArray
from dmeta.tasks.source import Split

Rotations: TypeAlias = Literal["classes", "per_task", "none"]
"""What turns of 0, 90, 180 and 270 degrees are: ``classes``: each turn of a class is a class of its
own; ``per_task``: each class of a task is turned at random; ``none``: images stay upright."""


def with_rotations(
    classes: Mapping[Split, Sequence[int]], rotations: Mapping[Split, Rotations]
) -> tuple[dict[Split, IntArray], frozenset[Split]]:
    """`splits` and `turned_per_task` of `dmeta.tasks.images.ImageClasses`.

    Args:
        classes: split -> its stored classes.
        rotations: split -> what turns are in it.
    """
    splits = {
        split: np.array(
            [
                (c, turn)
                for c in members
                for turn in range(4 if rotations[split] == "classes" else 1)
            ],
            dtype=np.int64,
        ).reshape(-1, 2)
        for split, members in classes.items()
    }
    return splits, frozenset(split for split, kind in rotations.items() if kind == "per_task")
