"""Which modules of a network have wrong derivatives under `torch.func.vmap`.

Each module is tried alone, in float64, on what it is given in a forward pass of the network: its
second derivatives for several inputs at once by ``vmap``, against those of one after the other.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dmeta.training.work.worker import BlockInputs

_WRONG = 1e-6  # rounding in float64 makes 1e-12 at most

# What a module raises that cannot be called alone or in float64, or has no second derivative.
_NOT_TRIED = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)


class _Call(NamedTuple):
    """One call of a module in a forward pass: (args, kwargs), flat."""

    name: str
    module: nn.Module
    leaves: list[Any]
    packing: pytree.TreeSpec


def suspected_modules(inputs: BlockInputs) -> list[str]:
    """``name (class)`` of the innermost modules whose derivatives differ; none if none is found.

    Args:
        inputs: a block; its first support set is what the network is given.
    """
    x = inputs.tasks.support.x[0]
    try:
        module = copy.deepcopy(inputs.algorithm.network.module).double().eval().to(x.device)
        calls = _calls(module, x.double() if x.is_floating_point() else x)
    except _NOT_TRIED:
        return []
    found: list[_Call] = []
    for call in calls:
        prefix = f"{call.name}." if call.name else ""
        if not any(other.name.startswith(prefix) for other in found) and _is_wrong(call):
            found.append(call)
    return [f"{call.name or 'the model'} ({type(call.module).__name__})" for call in found]


def _calls(module: nn.Module, x: Tensor) -> list[_Call]:
    """The first call of every module in a forward pass, those of inner modules first."""
    calls: dict[str, _Call] = {}

    def noted(name: str, part: nn.Module, args: Any, kwargs: Any) -> None:
        leaves, packing = pytree.tree_flatten((args, kwargs))
        copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        calls.setdefault(name, _Call(name, part, copies, packing))

    handles = [
        part.register_forward_pre_hook(
            lambda part, args, kwargs, name=name: noted(name, part, args, kwargs), with_kwargs=True
        )
        for name, part in module.named_modules()
    ]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    return list(reversed(calls.values()))


def _is_wrong(call: _Call) -> bool:
    places = [i for i, leaf in enumerate(call.leaves) if _is_float(leaf)]
    params = {n: p.detach().requires_grad_() for n, p in call.module.named_parameters()}
    inputs = [torch.stack([call.leaves[i], 0.9 * call.leaves[i] + 0.05]) for i in places]
    inputs = [x.requires_grad_() for x in inputs]
    leaves = [*params.values(), *inputs]
    if not leaves:
        return False

    def value(p: dict[str, Tensor], given: list[Tensor]) -> Tensor:
        filled = list(call.leaves)
        for i, x in zip(places, given, strict=True):
            filled[i] = x.clone()  # the module may change it in place
        args, kwargs = pytree.tree_unflatten(filled, call.packing)
        out = torch.func.functional_call(call.module, p, args, kwargs)
        return _sum_of_sines(out)

    def slope(given: list[Tensor]) -> Tensor:
        return _sum_of_sines(torch.func.grad(value, argnums=(0, 1))(params, given))

    try:
        at_once = torch.func.vmap(slope)(inputs).sum()
        in_turn = torch.stack([slope(list(row)) for row in zip(*inputs, strict=True)]).sum()
        got, expected = (_flat_gradient(total, leaves) for total in (at_once, in_turn))
    except _NOT_TRIED:
        return False
    return bool((got - expected).norm() > _WRONG * expected.norm())


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _sum_of_sines(out: Any) -> Tensor:
    """Something of which every second derivative counts."""
    return torch.stack([t.sin().sum() for t in pytree.tree_leaves(out) if _is_float(t)]).sum()


def _flat_gradient(total: Tensor, leaves: list[Tensor]) -> Tensor:
    grads = torch.autograd.grad(total, leaves, materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in grads])
