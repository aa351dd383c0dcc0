"""Adds the gradients of a step's blocks, in an order that depends only on their number.

Floating-point addition is not associative, so the shape is part of the result. It is a tree: each
`FAN_IN` neighbours are added from left to right, then each `FAN_IN` of these sums, and so on. Any
sum of the tree can be taken by anybody, anywhere, as soon as its members are there; the total has
the same bits. Up to `FAN_IN` blocks it is plain addition in their order.

Numpy only: who adds need not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmeta.runtime.messages import Gradient, Vector

FAN_IN = 8


def groups(num_members: int) -> list[range]:
    """Which members of one level of the tree are added to one of the next."""
    return [
        range(first, min(first + FAN_IN, num_members)) for first in range(0, num_members, FAN_IN)
    ]


def added(gradients: Sequence[Gradient]) -> Vector:
    """The sum from left to right, in float32, as a new array [P]."""
    total = widened(gradients[0])
    for gradient in gradients[1:]:
        total += widened(gradient) if gradient.dtype == np.uint16 else gradient
    return total


def total_of(gradients: Sequence[Gradient]) -> Vector:
    """The whole tree's sum [P], of blocks or of any one level's sums."""
    level = list(gradients)
    while len(level) > FAN_IN:
        level = [added([level[i] for i in group]) for group in groups(len(level))]
    return added(level)


def widened(gradient: Gradient) -> Vector:
    """A gradient as it came, in float32, as a new array: what came may be shared memory."""
    if gradient.dtype == np.uint16:  # bfloat16: the upper half of float32
        return (gradient.astype(np.uint32) << 16).view(np.float32)
    return np.array(gradient, np.float32)
