"""Parameters as one flat vector, the only form in which they cross a process.

Letters: P length of the vector.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.bilevel.types import Params

WirePrecision: TypeAlias = Literal["float32", "bfloat16"]
"""Of a vector on its way; bfloat16 is the upper half of float32: 8 significant bits."""


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


_Sent: TypeAlias = npt.NDArray[np.float32 | np.uint16]


def to_wire(vector: Tensor, precision: WirePrecision) -> _Sent:
    """[P] float32 on any device to [P] in this process's memory, rounded to `precision`.

    Numpy has no bfloat16: its bits are uint16.
    """
    if precision == "float32":
        return np.asarray(vector.cpu(), np.float32)
    return np.asarray(vector.to(torch.bfloat16).cpu().view(torch.uint16), np.uint16)


def sha256_of(layout: Layout, *pieces: npt.NDArray[np.float32]) -> str:
    """SHA-256 (hex) of the meta-parameters: every name and shape, then the little-endian floats.

    Args:
        layout: of the vector.
        pieces: of the vector, one after the other.
    """
    digest = hashlib.sha256()
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        digest.update(f"{name}{list(shape)};".encode())
    for piece in pieces:
        digest.update(np.ascontiguousarray(piece, dtype="<f4").tobytes())
    return digest.hexdigest()
