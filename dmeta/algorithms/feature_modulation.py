"""FiLM of a network: from the code of a task to a scale and a shift of every channel.

Requeima et al. 2019 (arXiv:1906.07697), section 2.1 and appendix, as in the authors' code. For each
layer, with the code z, r(u) = u + A u + a a dense layer with an identity connection, and learned
vectors s and t that start near 0,

    u = relu(M z + m)
    gamma = 1 + s * r3(relu(r2(relu(r1(u))))),   beta = t * r6(relu(r5(relu(r4(u)))))

What a layer puts out becomes gamma * output + beta, channel by channel (Perez et al. 2018,
arXiv:1709.07871, eq. 2). Of a layer that ends in a weight and a bias for each channel that is a
change of these parameters,

    weight' = gamma * weight,   bias' = gamma * bias + beta

so that the network itself is left as it is. Modulated are the normalisation layers; of a network
that has none, the dense layers and the convolutions.

Letters: C channels of a layer, Z dimensions of the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmeta.algorithms.dense_layers import dense, init_layer
from dmeta.bilevel.types import Params
from dmeta.models.network import Network

FILM = "cnaps/film/"
"""Prefix of the generators' weights, before the name of the layer."""

_SCALE, _SHIFT = "/gamma", "/beta"
_SHARED = "/shared"
_STRENGTH = "/strength"
_NUM_DENSE = 3
_FIRST_STRENGTH = 1e-3  # standard deviation of s and t at first
_OF_CHANNELS = ("weight", "bias")  # TaskNorm has parameters of the whole layer, too
_OTHERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class ModulatedLayer:
    """A layer whose channels are scaled and shifted.

    Attributes:
        name: of the layer.
        parameters: names of its weight and bias, or of the one that it has.
    """

    name: str
    parameters: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is generated: without a bias, there is no shift."""
        has_bias = any(_is_bias(name) for name in self.parameters)
        return (_SCALE, _SHIFT) if has_bias else (_SCALE,)


def modulated_layers(network: Network) -> tuple[ModulatedLayer, ...]:
    """The layers, in the network's order.

    Raises:
        ValueError: there are none.
    """
    names = network.norm_names or _weights_of_others(network)
    layers: dict[str, list[str]] = {}
    for name in network.names:
        if name in names and name.rpartition(".")[2] in _OF_CHANNELS:
            layers.setdefault(name.rpartition(".")[0], []).append(name)
    if not layers:
        raise ValueError(
            "algorithm=cnaps must have a model with normalisation layers, dense layers or "
            "convolutions whose weights are learned, got none of them; choose another model"
        )
    return tuple(ModulatedLayer(name, tuple(own)) for name, own in layers.items())


def _weights_of_others(network: Network) -> frozenset[str]:
    layers = {n for n, m in network.module.named_modules() if isinstance(m, _OTHERS)}
    return frozenset(name for name in network.names if name.rpartition(".")[0] in layers)


def init_generators(
    layers: Iterable[ModulatedLayer], network: Params, size: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """The generators' weights: dense layers as torch draws them, s and t from N(0, 0.001^2).

    Args:
        layers: which are modulated.
        network: name -> parameter.
        size: Z.
        generator: of the draw.
    """
    weights: dict[str, Tensor] = {}
    for layer in layers:
        name, like = FILM + layer.name, network[layer.parameters[0]]
        width = len(like)
        weights |= init_layer(name + _SHARED, (width, size), generator, like)
        for output in layer.outputs:
            for i in range(1, _NUM_DENSE + 1):
                weights |= init_layer(f"{name}{output}{i}", (width, width), generator, like)
            strength = torch.empty(width).normal_(0, _FIRST_STRENGTH, generator=generator)
            weights[name + output + _STRENGTH] = strength.to(like)
    return weights


def modulated(
    layers: Iterable[ModulatedLayer], weights: Params, network: Params, code: Tensor
) -> dict[str, Tensor]:
    """The parameters of a network, modulated for a task.

    Args:
        layers: which are modulated.
        weights: the generators'.
        network: name -> parameter.
        code: [Z].
    """
    changed = dict(network)
    for layer in layers:
        name = FILM + layer.name
        shared = torch.relu(dense(weights, name + _SHARED, code[None]))
        made = {out: _generated(weights, name + out, shared) for out in layer.outputs}
        for own in layer.parameters:
            p = network[own]
            of_channel = (-1, *(1 for _ in p.shape[1:]))
            changed[own] = (1 + made[_SCALE]).view(of_channel) * p
            if _is_bias(own):
                changed[own] = changed[own] + made[_SHIFT].view(of_channel)
    return changed


def squared_strengths(layers: Iterable[ModulatedLayer], weights: Params) -> Tensor:
    """The sum of the squares of all s and t: []."""
    names = [FILM + layer.name + out + _STRENGTH for layer in layers for out in layer.outputs]
    return torch.stack([weights[name].square().sum() for name in names]).sum()


def _generated(weights: Params, name: str, shared: Tensor) -> Tensor:
    """Gamma - 1 or beta of a layer: [C]."""
    rows = shared
    for i in range(1, _NUM_DENSE + 1):
        rows = rows + dense(weights, f"{name}{i}", rows)
        rows = torch.relu(rows) if i < _NUM_DENSE else rows
    return weights[name + _STRENGTH] * rows[0]


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"
