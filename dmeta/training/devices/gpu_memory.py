"""How much of a GPU's memory a worker may take, and the message when it is not enough."""

from __future__ import annotations

import torch

from dmeta.training.byte_size import shown_bytes


class GpuMemoryError(RuntimeError):
    """A GPU has not enough memory for a block; the message says which keys to change."""


def free_gpu_bytes(device: torch.device | str) -> int:
    """Bytes of a GPU that this process may still use for tensors.

    At most its share: `torch.cuda.set_per_process_memory_fraction`.
    """
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    unused = reserved - torch.cuda.memory_allocated(device)  # in torch's own hands
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return max(0, min(free, allowed - reserved)) + unused


def out_of_memory(tasks_at_once: int) -> GpuMemoryError:
    """The error to raise, with what this process has taken of its GPU so far.

    Args:
        tasks_at_once: tasks that were computed at once.
    """
    free, total = torch.cuda.mem_get_info()
    share = torch.cuda.get_per_process_memory_fraction()
    peak = torch.cuda.max_memory_allocated()
    reserved = torch.cuda.max_memory_reserved()
    limit = f"{shown_bytes(int(share * total))} that this worker may use"
    changes = []
    if share < 1:
        limit += f" of the GPU's {shown_bytes(total)} (runtime.gpus_per_worker)"
        changes.append("raise runtime.gpus_per_worker")
    elif free < total - reserved - total // 20:
        changes.append("end the other processes on the GPU")
    smaller = "" if tasks_at_once == 1 else f"compute.chunk_size below {tasks_at_once} or "
    changes.append(f"begin a run with {smaller}gradient=checkpointed")
    return GpuMemoryError(
        f"a block must fit the GPU's memory, got out of memory with {tasks_at_once} "
        f"task{'s' * (tasks_at_once != 1)} at once: peak {shown_bytes(peak)} of tensors, reserved "
        f"{shown_bytes(reserved)} of the {limit}, {shown_bytes(free)} free on the GPU; "
        + ", or ".join(changes)
    )
