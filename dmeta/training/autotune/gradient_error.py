"""The error of a meta-gradient, and the same block in float64 as its reference."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dmeta.bilevel.types import Params
from dmeta.training.work.worker import BlockInputs


def flat(gradient: Params) -> Tensor:
    """All values as one float64 vector."""
    return torch.cat([part.double().reshape(-1) for part in gradient.values()])


def relative_difference(got: Params, reference: Params) -> float:
    """2-norm of the difference of two meta-gradients over that of the second."""
    assert got.keys() == reference.keys()
    expected = flat(reference)
    return float(
        (flat({name: got[name] for name in reference}) - expected).norm() / expected.norm()
    )


def in_float64(inputs: BlockInputs) -> BlockInputs:
    """The same block, learner and meta-parameters with twice the digits."""
    algorithm: Any = inputs.algorithm
    module = copy.deepcopy(algorithm.network.module).double()
    network = dataclasses.replace(algorithm.network, module=module, precision="float32")
    return inputs._replace(
        algorithm=dataclasses.replace(algorithm, network=network),
        meta_params={name: p.double() for name, p in inputs.meta_params.items()},
        tasks=pytree.tree_map(_doubled, inputs.tasks),
    )


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
