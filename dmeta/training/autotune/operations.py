"""How much arithmetic a computation is. No clock is read: the same computation, the same number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def operations_of(compute: Callable[[], object]) -> int:
    """Floating-point operations of the products and convolutions of a computation.

    A multiplication and an addition are two. Of nothing else: activations, batch-norm and pooling
    are no arithmetic to speak of.
    """
    with _Counter() as counter:
        compute()
    return int(counter.total)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's formulas.

    Not `torch.utils.flop_counter.FlopCounterMode`, which hooks into modules and fails where a
    gradient is taken with respect to an input of one that is no leaf's (CAVIA's context).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        with self:
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        out = function(*args, **kwargs)
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=out))
        return out
