"""The outer optimiser: those of `torch.optim` that move each element of a vector by itself.

Others (LBFGS, Adafactor, Muon) look at a whole tensor: the server is one vector, which may be
divided among several processes.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import torch

from dmeta.registry import nearest
from dmeta.training.outer.options import OuterOptions
from dmeta.training.outer.torch_optimizers import NOT_OPTIONS, OPTIMIZERS, OptimizerName


def class_of(name: OptimizerName) -> type[torch.optim.Optimizer]:
    """The class of an optimiser."""
    module, _, class_name = OPTIMIZERS[name].target.partition(":")
    found: type[torch.optim.Optimizer] = getattr(import_module(module), class_name)
    return found


def arguments_of(name: OptimizerName) -> dict[str, Any]:
    """The optimiser's own arguments with their defaults, as plain data."""
    parameters = inspect.signature(class_of(name)).parameters
    defaults = {k: p.default for k, p in parameters.items() if k not in NOT_OPTIONS}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}


def check_optimizer(options: OuterOptions) -> None:
    """Check that the optimiser can be made.

    Raises:
        ValueError: see `make_optimizer`.
    """
    make_optimizer(options, torch.zeros(1))


def make_optimizer(options: OuterOptions, vector: torch.Tensor) -> torch.optim.Optimizer:
    """The optimiser of a vector [p].

    Raises:
        ValueError: it has no such argument, or not with such a value.
    """
    known = arguments_of(options.name)
    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in options.options.items()
    }
    if unknown := sorted(given.keys() - known.keys()):
        near = nearest(unknown[0], list(known))
        raise ValueError(
            f"unknown key 'outer.{unknown[0]}'{near}; {options.name} has {', '.join(known)}"
        )
    make: Any = class_of(options.name)
    try:
        made: torch.optim.Optimizer = make([vector], lr=options.lr, **given)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"outer must have arguments that torch.optim.{make.__name__} takes, "
            f"got {dict(options.options)} ({error}); change them"
        ) from None
    return made
