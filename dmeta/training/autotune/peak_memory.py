"""Measures the peak bytes of tensors of a computation. Knows no algorithm and no runtime.

On the CPU the bytes are those of the tensors that live at the same time, counted as torch makes and
frees them: the same number every time, on any machine, unlike the process's resident memory. What a
kernel takes for itself while it runs is not in it. On CUDA it is what torch's allocator reports.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


def peak_bytes(compute: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes of tensors at a time during `compute()`, beyond those that were there before.

    Args:
        compute: called once, in this thread; its result is dropped.
        device: where its tensors are, ``cpu`` or ``cuda``.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        compute()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    meter = _Meter()
    with meter, _no_collection():
        compute()
    return meter.peak


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the collector of cyclic garbage: when it comes depends on what was before."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below vmap and autograd, and so every storage that they make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        self._note((args, kwargs), new=False)
        result = function(*args, **kwargs)
        self._note(result, new=True)
        return result

    def _note(self, tree: Any, *, new: bool) -> None:
        for leaf in pytree.tree_leaves(tree):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            # torch keeps the Python object of a storage for as long as any tensor uses the storage,
            # so that its identity and its end are the storage's.
            if id(storage) in self._seen:
                continue
            size = storage.nbytes() if new else 0
            self._seen.add(id(storage))
            weakref.finalize(storage, self._forget, id(storage), size)
            self._live += size
            self.peak = max(self.peak, self._live)

    def _forget(self, identity: int, size: int) -> None:
        self._seen.discard(identity)
        self._live -= size
