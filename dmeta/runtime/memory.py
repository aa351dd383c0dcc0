"""Memory that a computing process may take and keep. Changes no result."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next block instead of giving it back to the system.

    Every block frees and takes again the same hundreds of megabytes of activations; giving them
    back costs a page fault per 4 KiB, a fifth of a step's time for small convolutions.

    Returns: whether the process's allocator has these settings (glibc's has).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = (
        (_M_MMAP_MAX, 0),  # whatever its size, from the heap: what has a map of its own goes back
        (_M_TRIM_THRESHOLD, (1 << 31) - 1),
        (_M_TOP_PAD, 64 << 20),
    )
    return all(mallopt(key, value) == 1 for key, value in settings)


CUDA_BYTES = 600 << 20
"""About what CUDA and its libraries take in each process besides tensors."""


def limit_gpu_memory(share: float) -> None:
    """Let torch take no more than a share of this process's GPU, so that others find theirs.

    To be called before anything is computed. Nothing happens where torch, if it was imported, has
    no GPU. What CUDA itself takes is of the share, too.

    Args:
        share: of the GPU; 1: all of it.
    """
    torch = sys.modules.get("torch")
    if share >= 1 or torch is None or not torch.cuda.is_available():
        return
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(max(share - CUDA_BYTES / total, share / 2))
