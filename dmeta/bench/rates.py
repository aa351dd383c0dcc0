"""How much arithmetic a computation is, and how much of it this machine can do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from dmeta.bench.timing import seconds_in_turn

_SIDE = 2048


def operations_of(compute: Callable[[], object]) -> int:
    """Floating-point operations of the products and convolutions of a computation.

    A multiplication and an addition are two. Of nothing else: activations, batch-norm and pooling
    are no arithmetic to speak of.
    """
    with FlopCounterMode(display=False) as counter:
        compute()
    return int(counter.get_total_flops())


def product_rate(device: str, dtype: torch.dtype = torch.float32, repeats: int = 5) -> float:
    """Operations per second of a product of two 2048x2048 matrices, the best of a few.

    Args:
        device: where.
        dtype: of the matrices.
        repeats: how many.
    """
    left, right = (
        torch.rand(_SIDE, _SIDE, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
        for seed in (0, 1)
    )
    products = {"product": lambda: left @ right}
    seconds_in_turn(products, 1, device)
    return 2 * _SIDE**3 / min(seconds_in_turn(products, repeats, device)["product"])
