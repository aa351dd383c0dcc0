"""Finds out what a network does in a forward pass, by running it once on an example.

Which of torch's functions it calls that need care (`dmeta.models.overrides`), whether it draws
random numbers or changes its constants, and which layer is applied last.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from dmeta.models.overrides import TaskFunctions

TracedRun: TypeAlias = Callable[[dict[str, Tensor]], Tensor]
"""Parameters -> output of the network for the example."""

_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")


@dataclass(frozen=True)
class Trace:
    """What was seen.

    Attributes:
        overridden: whether some function is called that `TaskFunctions` replaces.
        draws: names of functions that draw from torch's generator all the same.
        attention: whether scaled dot product attention is computed.
        head: names of the parameters of the layer that is applied last; None: not clear.
    """

    overridden: bool
    draws: frozenset[str]
    attention: bool
    head: frozenset[str] | None


class _Calls(TorchFunctionMode):
    """Notes the parameters that each call of a torch function is given, and who draws."""

    def __init__(self, params: dict[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in params.items()}
        self.given: list[list[str]] = []
        self.functions: set[str] = set()
        self.draws: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        before = torch.get_rng_state()
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if not torch.equal(before, torch.get_rng_state()):
            self.draws.add(name)
        leaves = pytree.tree_leaves((args, kwargs))
        # Reading an attribute such as a shape is no use of a parameter.
        named = [] if name == "__get__" else [self._names.get(id(leaf)) for leaf in leaves]
        self.functions.add(name)
        self.given.append([n for n in named if n is not None])
        return out


def trace(
    module: nn.Module, params: dict[str, Tensor], run: TracedRun, run_own: Callable[[bool], Tensor]
) -> Trace:
    """Run a network in training and in evaluation mode.

    Args:
        module: the network's module, its own trainable parameters NaN; left in evaluation mode.
        params: its trainable parameters.
        run: calls the module with parameters in place of its own.
        run_own: calls it with its own initial values, in training mode or not.

    Raises:
        ValueError: it changes a buffer or frozen parameter, draws from Python's or numpy's global
            generator, or uses a parameter in another way than by its name.
    """
    params = {name: p.detach().requires_grad_() for name, p in params.items()}
    modes, both = [], []
    with torch.random.fork_rng(devices=[]):
        for training in (True, False):
            before = _constants(module)
            others = _other_generators()
            calls, functions = _Calls(params), TaskFunctions()
            module.train(training)
            with torch.enable_grad(), functions, calls:
                out = run(params)
            if not out.isfinite().all() and run_own(training).isfinite().all():
                raise _other_way()
            _check_pure(module, before, others)
            modes.append(functions)
            both.append(calls)
        head = _last_layer(params, both[-1].given)
        if head is not None and not _decides_alone(params, head, run):
            head = None
    return Trace(
        overridden=any(mode.is_used for mode in modes),
        draws=frozenset().union(*(calls.draws for calls in both)),
        attention=any(name in calls.functions for calls in both for name in _ATTENTION),
        head=head,
    )


def owner(name: str) -> str:
    """The layer that a parameter belongs to, by its name; '' is the network itself."""
    layer = name.partition("parametrizations.")[0] if "parametrizations." in name else name
    return layer.rstrip(".") if layer != name else name.rpartition(".")[0]


def of_layer(names: Iterable[str], layer: str) -> frozenset[str]:
    """The parameters that belong to a layer itself, not to layers inside it."""
    return frozenset(name for name in names if owner(name) == layer)


def _last_layer(params: dict[str, Tensor], given: list[list[str]]) -> frozenset[str] | None:
    """The parameters of the one layer that no other is applied after; None: there is none."""
    uses: dict[str, list[int]] = {}
    for place, names in enumerate(given):
        for name in names:
            uses.setdefault(name, []).append(place)
    if not uses:
        return None
    last = max(uses, key=lambda name: uses[name][-1])
    layer = owner(last)
    head = of_layer(params, layer)
    others = params.keys() - head
    inside = any(name.startswith(f"{layer}.") if layer else True for name in others)
    first_use = min(uses[name][0] for name in head if name in uses)
    is_before = all(uses[name][-1] < first_use for name in others if name in uses)
    return head if is_before and not inside else None


def _decides_alone(params: dict[str, Tensor], head: frozenset[str], run: TracedRun) -> bool:
    """Whether nothing of the other parameters reaches the output if the head is 0.

    Not so where the last layer is one of several branches, or a shortcut leads around it.
    """
    others = [p for name, p in params.items() if name not in head]
    if not others or any("parametrizations." in name for name in head):
        return True
    without = {n: torch.zeros_like(p) if n in head else p for n, p in params.items()}
    with torch.enable_grad(), TaskFunctions():
        out = run(without)
    if not out.requires_grad:
        return True
    through = torch.autograd.grad(out.square().sum() + out.sum(), others, allow_unused=True)
    return not any(g.any() for g in through if g is not None)


def _constants(module: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """Each buffer and frozen parameter, and how often it was changed in place."""
    frozen = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
    found: list[tuple[str, Tensor]] = [*module.named_buffers(), *frozen]
    return {name: (tensor, tensor._version) for name, tensor in found}


def _other_way() -> ValueError:
    return ValueError(
        "the model must use its parameters by their names, got one that reads them in another way "
        "too (its outputs do not follow from the given ones); look for parameters that are also "
        "kept in a list or a closure, where they would not be learned"
    )


def _other_generators() -> tuple[Any, ...]:
    state = np.random.get_state()  # noqa: NPY002 - what the network may have used
    return random.getstate(), state[1].tobytes(), state[2]  # type: ignore[index]


def _check_pure(
    module: nn.Module, before: dict[str, tuple[Tensor, int]], others: tuple[Any, ...]
) -> None:
    for name, (tensor, version) in _constants(module).items():
        was, old_version = before.get(name, (None, 0))
        if tensor is not was or version != old_version:
            layer = type(module.get_submodule(name.rpartition(".")[0])).__name__
            raise ValueError(
                "the model must not change its buffers or frozen parameters in a forward pass "
                f"(only batch-norm and instance-norm are converted), got {name} of {layer}, which "
                "changes; remove that layer, or compute it from parameters and input alone"
            )
    if _other_generators() != others:
        raise ValueError(
            "the model must draw its random numbers from torch, got one that uses Python's or "
            "numpy's global generator in a forward pass; use torch.rand or nn.Dropout"
        )
