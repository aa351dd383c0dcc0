"""Parameters as one flat float32 vector, the only form in which they cross a process.

Letters: P length of the vector.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.bilevel.types import Params


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies in the vector; the order is that of `names`."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(params: Params) -> Layout:
        """The layout of `params`, in their own order."""
        return Layout(tuple(params), tuple(tuple(p.shape) for p in params.values()))

    @property
    def size(self) -> int:
        """P, the number of floats."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, params: Params) -> Tensor:
        """Name -> tensor to [P]; a new tensor.

        Raises:
            ValueError: names or shapes are not this layout's.
        """
        got = Layout.of({name: params[name] for name in self.names if name in params})
        if got != self or len(params) != len(self.names):
            raise ValueError(f"parameters must have the layout {self}, got {Layout.of(params)}")
        return torch.cat([params[name].reshape(-1) for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """[P] to name -> view of the vector.

        Raises:
            ValueError: the vector's length is not P.
        """
        if vector.shape != (self.size,):
            raise ValueError(
                f"the vector must have shape ({self.size},), got {tuple(vector.shape)}"
            )
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = torch.split(vector, sizes)
        return {
            name: part.view(shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }


def sha256_of(layout: Layout, vector: npt.NDArray[np.float32]) -> str:
    """SHA-256 (hex) of the meta-parameters: every name and shape, then the little-endian floats."""
    digest = hashlib.sha256()
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        digest.update(f"{name}{list(shape)};".encode())
    digest.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
    return digest.hexdigest()
