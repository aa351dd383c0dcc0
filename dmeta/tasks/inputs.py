"""The forms in which examples are stored, and how each becomes a network's input.

A source that stores its examples in one of them says so (``input_form``): the name is kept with a
run, so that a trained learner prepares a user's examples as its source prepared its own.

Letters: N examples, C channels, D features.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmeta.tasks.source import TaskSource

InputForm: TypeAlias = Literal["images", "unit_vectors"]
"""``images``: uint8, channels last, to floats in 0..1, channels first. ``unit_vectors``: vectors
that are divided by their length."""


def input_form_of(source: TaskSource) -> InputForm | None:
    """The form that a source says its examples have; None: it does not say."""
    form: InputForm | None = getattr(source, "input_form", None)
    return form


def image_input(x: Tensor, *, has_channels: bool) -> Tensor:
    """uint8 [..., H, W] or (with channels) [..., H, W, C] -> float32 [..., C, H, W] in 0..1."""
    # Channels are moved while they are bytes, a quarter of the memory.
    x = x.movedim(-1, -3).contiguous() if has_channels else x.unsqueeze(-3)
    return x.to(torch.float32).div_(255.0)  # of a copy: bytes have become floats


def unit_vectors(x: Tensor) -> Tensor:
    """[..., D] -> the same divided by their 2-norms; a vector of zeros stays."""
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(lengths > 0, x / lengths.where(lengths > 0, 1), x)


def resized_images(x: Tensor, height: int, width: int) -> Tensor:
    """[N, C, H, W] uint8 or floats in 0..1 -> [N, C, height, width], by Pillow's Lanczos filter.

    The data sets' own images are shrunk by it, too.
    """
    if 0 in x.shape:
        return x.new_zeros((*x.shape[:2], height, width))
    planes = x.flatten(0, 1).cpu().numpy()
    planes = planes if planes.dtype == np.uint8 else planes.astype(np.float32)
    resized = np.stack(
        [
            np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.LANCZOS))
            for p in planes
        ]
    )
    out = torch.from_numpy(resized).view(*x.shape[:2], height, width).to(x.device)
    return out if out.dtype == torch.uint8 else out.clamp(0, 1)  # Lanczos overshoots at edges
