"""The frozen weights of a model: which they are, and how they reach the workers.

What a model does not learn decides the result as much as its settings do, but is in no setting: its
digest is. On its way to a worker a tensor becomes a numpy array, which the object store holds once
for all workers of a node; pickled as a tensor, every worker would have copies of its own.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dmeta.models.network import Network
from dmeta.options import NamedOptions
from dmeta.tasks.classes import shared_tensor
from dmeta.training.config import RunConfig

FROZEN = "frozen_weights_sha256"
"""Option of a user's model, or of an algorithm that has one: `digest_of` its frozen weights."""


def frozen_digest(network: Network) -> str | None:
    """SHA-256 (hex) of a network's frozen parameters and buffers; None: it has none."""
    module = network.module
    tensors: dict[str, Tensor] = dict(module.named_buffers())
    tensors |= {name: p for name, p in module.named_parameters() if not p.requires_grad}
    return digest_of(tensors) if tensors else None


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of names, types, shapes and values, in whatever order they are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        numbers = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(numbers.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def with_digest(config: RunConfig, network: Network, *, of_model: bool) -> RunConfig:
    """Settings that say which frozen weights the user's own network has, if it has any.

    Args:
        config: settings.
        network: the user's own.
        of_model: whether it was given as a model; else it came with an algorithm.
    """
    digest = frozen_digest(network)
    if digest is None:
        return config
    group = "model" if of_model else "algorithm"
    choice: NamedOptions = getattr(config, group)
    choice = NamedOptions(choice.name, {**choice.options, FROZEN: digest})
    return dataclasses.replace(config, **{group: choice})  # type: ignore[arg-type]


def check_same(begun: RunConfig, network: Network, where: str) -> None:
    """Refuse a network with other frozen weights than a run was trained with.

    Args:
        begun: settings of the run.
        network: the one that was given now.
        where: the run is.

    Raises:
        ValueError: they differ.
    """
    trained = [choice.options.get(FROZEN) for choice in (begun.model, begun.algorithm)]
    expected = next((digest for digest in trained if digest is not None), None)
    if expected is not None and frozen_digest(network) != expected:
        raise other_weights(where)


def other_weights(where: str) -> ValueError:
    """The refusal of frozen weights other than those of the run in a folder."""
    return ValueError(
        f"the model must have the frozen weights that the run in {where} was trained with, got "
        "others; load the same backbone, or choose another run_dir"
    )


class PackedNetwork(NamedTuple):
    """A network whose tensors are numpy arrays.

    Attributes:
        network: has placeholders instead of tensors.
        placeholders: the same objects, each for one of the arrays.
        arrays: what the tensors hold.
    """

    network: Network
    placeholders: tuple[_Placeholder, ...]
    arrays: tuple[npt.NDArray[Any], ...]


class _Placeholder:
    """Stands for a tensor.

    Attributes:
        dtype: of the tensor; numpy has no bfloat16.
        requires_grad: of a parameter; None: it is a buffer.
    """

    def __init__(self, dtype: torch.dtype, requires_grad: bool | None) -> None:
        self.dtype, self.requires_grad = dtype, requires_grad


def packed(network: Network) -> PackedNetwork:
    """A network to be sent; as large in messages as its code."""
    memo: dict[int, Any] = {}
    placeholders, arrays = [], []
    module = network.module
    for tensor in [*module.parameters(), *module.buffers()]:
        array = _array_of(tensor)
        if array is None or id(tensor) in memo:
            continue
        grad = tensor.requires_grad if isinstance(tensor, nn.Parameter) else None
        memo[id(tensor)] = _Placeholder(tensor.dtype, grad)
        placeholders.append(memo[id(tensor)])
        arrays.append(array)
    hollow = dataclasses.replace(network, module=copy.deepcopy(module, memo))
    return PackedNetwork(hollow, tuple(placeholders), tuple(arrays))


def unpacked(sent: PackedNetwork) -> Network:
    """The network again. Its parameters are the arrays' memory, its buffers are its own."""
    memo = {
        id(place): _tensor_of(place, array)
        for place, array in zip(sent.placeholders, sent.arrays, strict=True)
    }
    module = copy.deepcopy(sent.network.module, memo)
    return dataclasses.replace(sent.network, module=module)


def _array_of(tensor: Tensor) -> npt.NDArray[Any] | None:
    """The tensor's own memory; None: of a kind that numpy has not, or not in one piece."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        return None
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    plain = tensor.detach()
    try:
        array: npt.NDArray[Any] = _as_numpy_has_it(plain).numpy()
    except TypeError:
        return None
    return np.ascontiguousarray(array) if array.ndim else array


def _as_numpy_has_it(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor


def _tensor_of(place: _Placeholder, array: npt.NDArray[Any]) -> Tensor:
    tensor = shared_tensor(array).view(place.dtype)
    if place.requires_grad is None:
        return tensor.clone()
    return nn.Parameter(tensor, requires_grad=place.requires_grad)
