"""One copy of a module per thread, because calling a module changes it for a moment.

A copy shares frozen parameters and buffers. Its trainable parameters are NaN: they are given in
each call (`torch.func.functional_call`), and a module that reads its own by another way than their
names gives NaN instead of computing with values that are never learned.
"""

from __future__ import annotations

import copy
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dmeta.models.norms import BATCH_NORMS, BatchStatisticsNorm, TaskNorm


class ThreadCopy(NamedTuple):
    """What one thread calls.

    Attributes:
        module: its trainable parameters are NaN.
        batch_norms: its layers that take batch statistics.
    """

    module: nn.Module
    batch_norms: tuple[BatchStatisticsNorm | TaskNorm, ...]


class ThreadCopies:
    """The copies of one module.

    Args:
        module: never changed here.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._of_thread = threading.local()

    def mine(self) -> ThreadCopy:
        """This thread's."""
        made: ThreadCopy | None = getattr(self._of_thread, "copy", None)
        if made is None:
            module = structure_of(self.module)
            made = self._of_thread.copy = ThreadCopy(module, batch_norms_of(module))
        return made

    def __reduce__(self) -> Any:
        """Copies stay in their process."""
        return ThreadCopies, (self.module,)


def batch_norms_of(module: nn.Module) -> tuple[BatchStatisticsNorm | TaskNorm, ...]:
    """The layers of a module that take batch statistics."""
    return tuple(m for m in module.modules() if isinstance(m, BATCH_NORMS))


def structure_of(module: nn.Module) -> nn.Module:
    """A copy that shares all tensors but the trainable parameters, which are NaN."""
    memo: dict[int, Any] = {}
    for p in module.parameters():
        memo[id(p)] = nn.Parameter(_no_value(p).expand(p.shape)) if p.requires_grad else p
    memo |= {id(buffer): buffer for buffer in module.buffers()}
    return copy.deepcopy(module, memo)


_NO_VALUES: dict[tuple[torch.dtype, torch.device], Tensor] = {}


def _no_value(like: Tensor) -> Tensor:
    """NaN, [], the same tensor every time: a copy takes no memory for parameters."""
    key = like.dtype, like.device
    if key not in _NO_VALUES:
        _NO_VALUES[key] = like.detach().new_full((), torch.nan)
    return _NO_VALUES[key]


def placed_on(module: nn.Module, device: torch.device | str) -> nn.Module:
    """A copy whose frozen parameters and buffers are on the device; trainable ones are shared."""
    memo: dict[int, Any] = {id(p): p for p in module.parameters() if p.requires_grad}
    for p in module.parameters():
        if not p.requires_grad:
            memo[id(p)] = nn.Parameter(p.detach().to(device), requires_grad=False)
    memo |= {id(buffer): _moved(buffer, device) for buffer in module.buffers()}
    return copy.deepcopy(module, memo)


def _moved(buffer: Tensor, device: torch.device | str) -> Tensor:
    moved: Tensor = buffer.detach().to(device)
    return moved
