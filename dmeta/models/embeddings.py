"""Token ids that an embedding does not have, said with the ids that it has."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_ids(module: nn.Module, x: Tensor) -> None:
    """To be called when a forward pass has raised an IndexError: costs nothing where none does.

    Args:
        module: the network.
        x: its input.

    Raises:
        ValueError: the input has ids that one of the module's embeddings lacks.
    """
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):  # under vmap: the values of all tasks
        x = functorch.get_unwrapped(x)
    sizes = {n: m.num_embeddings for n, m in module.named_modules() if isinstance(m, nn.Embedding)}
    if x.is_floating_point() or x.numel() == 0 or not sizes:
        return
    lowest, highest = int(x.min()), int(x.max())
    if lowest >= 0 and highest < min(sizes.values()):
        return  # something else was out of range
    has = ", ".join(f"{name or 'the model'}: 0 to {size - 1}" for name, size in sizes.items())
    raise ValueError(
        f"token ids must be those of the model's embedding ({has}), got ids from {lowest} to "
        f"{highest}; raise its num_embeddings, or correct the ids"
    )
