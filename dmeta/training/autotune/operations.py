"""How much arithmetic a computation is. No clock is read: the same computation, the same number."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def operations_of(compute: Callable[[], object]) -> int:
    """Floating-point operations of the products and convolutions of a computation.

    A multiplication and an addition are two. Of nothing else: activations, batch-norm and pooling
    are no arithmetic to speak of.
    """
    with FlopCounterMode(display=False) as counter:
        compute()
    return int(counter.get_total_flops())
