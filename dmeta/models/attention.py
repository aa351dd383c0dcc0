"""Torch's kernels of attention: the choice of one that has a second derivative."""

from __future__ import annotations

import threading

from torch.nn.attention import SDPBackend, sdpa_kernel


class _MathKernel:
    """Attention by elementary operations while any thread is within the context.

    Torch's choice of kernels belongs to the whole process.
    """

    def __init__(self) -> None:
        self._lock, self._num_inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._num_inside == 0:
                self._kernel = sdpa_kernel(SDPBackend.MATH)
                self._kernel.__enter__()
            self._num_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                self._kernel.__exit__(None, None, None)


MATH_KERNEL = _MathKernel()
"""The one of this process."""
