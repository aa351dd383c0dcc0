"""Names of the outer optimisers, and which class of torch each is. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

OptimizerName: TypeAlias = Literal[
    "adam",
    "adamw",
    "nadam",
    "radam",
    "adamax",
    "adagrad",
    "adadelta",
    "rmsprop",
    "rprop",
    "asgd",
    "sgd",
]


class TorchOptimizer(NamedTuple):
    """An optimiser of torch.

    Attributes:
        target: ``module:name`` of its class.
        lr: the outer learning rate that comes with it.
    """

    target: str
    lr: float


OPTIMIZERS: Mapping[OptimizerName, TorchOptimizer] = {
    "adam": TorchOptimizer("torch.optim.adam:Adam", 1e-3),
    "adamw": TorchOptimizer("torch.optim.adamw:AdamW", 1e-3),
    "nadam": TorchOptimizer("torch.optim.nadam:NAdam", 2e-3),
    "radam": TorchOptimizer("torch.optim.radam:RAdam", 1e-3),
    "adamax": TorchOptimizer("torch.optim.adamax:Adamax", 2e-3),
    "adagrad": TorchOptimizer("torch.optim.adagrad:Adagrad", 1e-2),
    "adadelta": TorchOptimizer("torch.optim.adadelta:Adadelta", 1.0),
    "rmsprop": TorchOptimizer("torch.optim.rmsprop:RMSprop", 1e-2),
    "rprop": TorchOptimizer("torch.optim.rprop:Rprop", 1e-2),
    "asgd": TorchOptimizer("torch.optim.asgd:ASGD", 1e-2),
    "sgd": TorchOptimizer("torch.optim.sgd:SGD", 1.0),
}
"""Those of `torch.optim` that move each element of a vector by itself; the rates are torch's, but
for sgd's, with which Reptile moves the whole way."""

NOT_OPTIONS = frozenset(
    {"params", "lr", "foreach", "fused", "capturable", "differentiable", "maximize"}
)
"""Arguments of torch's optimisers that say how it computes, or that `OuterOptions` has itself."""
