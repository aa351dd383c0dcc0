"""How far a meta-gradient is from the exact one, in float64."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dmeta.bilevel.types import Params
from dmeta.models.network import Network
from dmeta.training.work import BlockInputs

BAR = 1e-10
"""Relative difference up to which two float64 meta-gradients are the same but for rounding."""


@dataclass(frozen=True)
class Agreement:
    """Of a meta-gradient with the exact one, over all meta-parameters together.

    Attributes:
        cosine: of the angle between them, both in float64.
        norm_ratio: its 2-norm over that of the exact one, both in float64.
        relative_error: 2-norm of the difference over that of the exact one, both in float64.
        relative_error_float32: the same of the float32 meta-gradient, as a run computes it.
    """

    cosine: float
    norm_ratio: float
    relative_error: float
    relative_error_float32: float


def agreement_of(in_float64: Params, in_float32: Params, exact: Params) -> Agreement:
    """A meta-gradient, in float64 and in float32, beside the exact one in float64."""
    got, reference = _flat(in_float64), _flat(exact)
    length = reference.norm()
    return Agreement(
        cosine=float(got @ reference / (got.norm() * length)),
        norm_ratio=float(got.norm() / length),
        relative_error=relative_difference(in_float64, exact),
        relative_error_float32=relative_difference(in_float32, exact),
    )


def relative_difference(got: Params, reference: Params) -> float:
    """2-norm of the difference of two meta-gradients over that of the second."""
    assert got.keys() == reference.keys()
    expected = _flat(reference)
    return float(
        (_flat({name: got[name] for name in reference}) - expected).norm() / expected.norm()
    )


def in_float64(inputs: BlockInputs) -> BlockInputs:
    """The same block, learner and meta-parameters with twice the digits."""
    network = Network(copy.deepcopy(inputs.algorithm.network.module).double())
    algorithm: Any = inputs.algorithm
    return inputs._replace(
        algorithm=dataclasses.replace(algorithm, network=network),
        meta_params={name: p.double() for name, p in inputs.meta_params.items()},
        tasks=pytree.tree_map(_doubled, inputs.tasks),
    )


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _flat(gradient: Params) -> Tensor:
    return torch.cat([part.double().reshape(-1) for part in gradient.values()])
