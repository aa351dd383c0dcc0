"""The work that other libraries can do too, in plain torch. Knows none of the libraries."""

from __future__ import annotations

import copy
import itertools
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from dmeta.algorithms.inner_loop import InnerLoop, network_params
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.estimators import Annealed, Checkpointed, exact, first_order
from dmeta.bilevel.implicit import Implicit
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.transforms.rate import RATE
from dmeta.bilevel.types import Params, Stage
from dmeta.models.network import Network
from dmeta.models.norms import BatchStatisticsNorm
from dmeta.training.setup import Run
from dmeta.training.work.worker import BlockInputs
from tests.peers.libraries import Method, Work

Written: TypeAlias = Literal["same", "textbook"]
"""How a peer's network is written: as dmeta's, or with every activation before its pool, as in the
papers and in the libraries' own networks. The same function; dmeta pools first."""


def work_of(run: Run, inputs: BlockInputs, written: Written = "same") -> Work:
    """What a peer has to compute for the run's meta-gradient of a block.

    Args:
        run: the run.
        inputs: of the block.
        written: how the network is.

    Raises:
        ValueError: no peer has the method or one of its settings; the message says which.
    """
    algorithm, estimator = inputs.algorithm, run.work.estimator
    if not isinstance(algorithm, Maml) or algorithm.per_step_norm:
        raise ValueError(
            f"algorithm={run.config.algorithm.name} is not compared with other libraries"
        )
    inner = algorithm.inner
    _check_plain_sgd(inner)
    method = _method_of(inner, estimator)
    module = _plain_module(algorithm.network, network_params(inputs.meta_params))
    if written == "textbook":
        _activate_before_pooling(module)
    if method == "anil":
        _check_head_is_last(module, algorithm.network)
    implicit = estimator if isinstance(estimator, Implicit) else Implicit()
    rates = {n.removeprefix(RATE): p for n, p in inputs.meta_params.items() if n.startswith(RATE)}
    return Work(
        module=module,
        loss=algorithm.loss,
        tasks=inputs.tasks,
        method=method,
        first_order=_is_first_order(run, inputs.stage),
        inner_lr=inner.inner_lr,
        inner_steps=inner.inner_steps,
        rates=rates,
        proximal=inner.inner_proximal,
        cg_steps=implicit.iterations,
        cg_tolerance=implicit.tolerance,
    )


_PLAIN = {
    "inner_optimizer": "sgd",
    "inner_momentum": 0,
    "inner_clip_norm": None,
    "inner_batch_size": None,
    "inner_steps_max": None,
    "inner_chain": None,
    "precondition": None,
    "multi_step_loss_until": 0,
}
"""Settings of the inner loop that all libraries have in common."""


def _check_plain_sgd(inner: InnerLoop) -> None:
    for key, plain in _PLAIN.items():
        if (value := getattr(inner, key)) != plain:
            wanted = "null" if plain is None else plain
            raise ValueError(f"algorithm.{key} must be {wanted} for a comparison, got {value}")


def _method_of(inner: InnerLoop, estimator: Estimator) -> Method:
    methods: dict[tuple[Any, ...], Method] = {
        # adapt, learn_inner_lr, a proximal term, gradient=implicit
        ("all", None, False, False): "maml",
        ("head", None, False, False): "anil",
        ("all", "per_element", False, False): "meta_sgd",
        ("all", None, True, True): "imaml",
    }
    proximal, implicit = inner.inner_proximal > 0, isinstance(estimator, Implicit)
    key = (inner.adapt, inner.learn_inner_lr, proximal, implicit)
    if key not in methods:
        gradient = "implicit" if implicit else "another than implicit"
        raise ValueError(
            f"none of MAML, ANIL, Meta-SGD and iMAML has algorithm.adapt={inner.adapt}, "
            f"learn_inner_lr={inner.learn_inner_lr or 'null'} and inner_proximal="
            f"{inner.inner_proximal:g} with gradient={gradient}"
        )
    return methods[key]


def _is_first_order(run: Run, stage: Stage) -> bool:
    estimator = run.work.estimator
    if isinstance(estimator, Implicit):
        for key, wanted in (("solver", "cg"), ("damping", 0.0)):
            if (value := getattr(estimator, key)) != wanted:
                raise ValueError(f"gradient.{key} must be {wanted} for a comparison, got {value}")
        return False
    if isinstance(estimator, Annealed):
        return stage.step < estimator.first_order_until
    if estimator is exact or estimator is first_order or isinstance(estimator, Checkpointed):
        return estimator is first_order
    raise ValueError(f"gradient={run.config.gradient.name} is not compared with other libraries")


def _plain_module(network: Network, weights: Params) -> nn.Module:
    """The network as plain torch, with torch's own batch-norm and the given weights."""
    module = _with_torch_norms(copy.deepcopy(network.module))
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name in weights:
                p.copy_(weights[name])
    return module


class _TorchBatchNorm(nn.BatchNorm2d):
    """Torch's batch-norm on batch statistics, of inputs [N, C, ...] of any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _with_torch_norms(module: nn.Module) -> nn.Module:
    if isinstance(module, BatchStatisticsNorm):
        channels = 0 if module.weight is None else len(module.weight)
        norm = _TorchBatchNorm(channels, eps=module.eps, affine=False, track_running_stats=False)
        norm.weight, norm.bias = module.weight, module.bias
        return norm
    for name, child in module.named_children():
        setattr(module, name, _with_torch_norms(child))
    return module


def _activate_before_pooling(module: nn.Module) -> None:
    """Turn each max-pool that a (Leaky)ReLU follows round: as they commute, the same function."""
    for child in module.children():
        _activate_before_pooling(child)
    if not isinstance(module, nn.Sequential):
        return
    layers = module._modules
    for first, second in itertools.pairwise(layers):
        pool, activation = layers[first], layers[second]
        if isinstance(pool, nn.MaxPool2d) and isinstance(activation, nn.ReLU | nn.LeakyReLU):
            layers[first], layers[second] = activation, pool


def _check_head_is_last(module: nn.Module, network: Network) -> None:
    last = list(module.named_children())[-1:]
    names = {f"{name}.{own}" for name, child in last for own, _ in child.named_parameters()}
    if not isinstance(module, nn.Sequential) or names != network.head:
        raise ValueError("ANIL is compared for an nn.Sequential whose last layer is the head")
