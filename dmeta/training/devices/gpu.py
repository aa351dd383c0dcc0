"""Settings of this process's GPU, before anything is computed there; its random numbers."""

from __future__ import annotations

import contextlib
import os

import torch

from dmeta.runtime.options import Precision


def set_up_gpu(precision: Precision) -> None:
    """Kernels that add in a fixed order, so that a block has the same bits on every worker.

    For the whole process: torch has no such settings for a part of it. Where it has no such kernel
    it warns, and names the operation.

    Args:
        precision: ``tf32`` lets products and convolutions of float32 round their inputs to 10 bits;
            otherwise they may not (torch's own default is that convolutions may).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read with the first product
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False  # which takes what was fastest this time
    torch.backends.cudnn.deterministic = True
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Not the newer fp32_precision, after which reading these raises
    # (github.com/pytorch/pytorch/issues/166387).
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def random_numbers_kept(device: str) -> contextlib.AbstractContextManager[None]:
    """Within the context torch's global generators are used freely; restored afterwards.

    That of a GPU only if it is the device: to look at it would begin to use the GPU.

    Args:
        device: that computes, ``cpu`` or ``cuda``.
    """
    on_gpu = torch.device(device).type == "cuda"
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else [])
