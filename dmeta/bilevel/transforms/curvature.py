"""Meta-Curvature: an update rule whose gradients are transformed by learned matrices.

Park & Oliva 2019, "Meta-Curvature" (arXiv:1902.03356), section 3.1. The gradient G of a weight
tensor is multiplied by one matrix along each of its modes (n-mode products, written x_n):

    convolution  G [O, I, F]:  G x_3 M_f x_2 M_i x_1 M_o
    linear layer G [O, I]:     M_o G M_i^T
    bias, norm   g [O]:        M_o g

All matrices are the identity at first, so that the rule then does what it does without them.

Letters: O outputs, I inputs, F positions of a filter (all axes after the second, as one).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dmeta.bilevel.chain import is_carried
from dmeta.bilevel.inner import State
from dmeta.bilevel.types import Params

CURVATURE = "inner_curvature/"
"""Prefix of the matrices: then come ``output/``, ``input/`` or ``filter/`` and a parameter."""

_MODES = ("output", "input", "filter")


def identities(params: Params) -> dict[str, Tensor]:
    """Name -> identity matrix, for every mode of every parameter: M_o [O, O], M_i, M_f."""
    return {
        f"{CURVATURE}{mode}/{name}": torch.eye(size, dtype=p.dtype, device=p.device)
        for name, p in params.items()
        for mode, size in zip(_MODES, _sizes(p), strict=False)
    }


def matrices_of(params: Params, meta_params: Params) -> dict[str, tuple[Tensor, ...]]:
    """Parameter -> its matrices, named as by `identities`, one for each of its modes."""
    return {
        name: tuple(meta_params[f"{CURVATURE}{mode}/{name}"] for mode in _MODES[: len(_sizes(p))])
        for name, p in params.items()
    }


def transformed(gradient: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
    """The gradient times a matrix along each of its modes; of the gradient's shape."""
    product = gradient.reshape(_sizes(gradient))
    for mode, matrix in enumerate(matrices):
        product = torch.tensordot(matrix, product, dims=([1], [mode])).movedim(0, mode)
    return product.reshape(gradient.shape)


@dataclass(frozen=True)
class Curvature:
    """Multiplies by learned matrices; tensors without any are left as they are."""

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """Identity matrices (see `identities`)."""
        return identities(params)

    def init(self, params: Params) -> State:
        """None."""
        return ()

    def update(
        self,
        update: Params,
        state: State,
        params: Params,
        step: int,
        meta: Params,
    ) -> tuple[Params, State]:
        """One step."""
        moved = {name: u for name, u in update.items() if not is_carried(name)}
        matrices = matrices_of(moved, meta)
        return {
            name: transformed(u, matrices[name]) if name in matrices else u
            for name, u in update.items()
        }, state


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """Of the tensor's modes: (O,), (O, I) or (O, I, F)."""
    shape = tuple(tensor.shape) or (1,)
    return shape if len(shape) < 3 else (*shape[:2], math.prod(shape[2:]))
