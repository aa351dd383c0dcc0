"""How much arithmetic this machine can do."""

from __future__ import annotations

import torch

from dmeta.bench.timing import seconds_in_turn

_SIDE = 2048


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
