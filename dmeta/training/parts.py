"""What a run is made of, each part from its settings: source, network, algorithm, estimator."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import Algorithm, embeds
from dmeta.bilevel.estimators import ESTIMATORS
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.types import Loss
from dmeta.models import MODELS
from dmeta.models.network import Network, Precision
from dmeta.tasks import TASKS
from dmeta.tasks.source import TaskSource
from dmeta.training.config import MEMORY_BUDGET, RunConfig
from dmeta.training.losses import loss_of
from dmeta.training.options import Choice, checked_options
from dmeta.training.prediction import EXACT


def make_source(config: RunConfig) -> TaskSource:
    """The task source that the settings name; reads its data.

    Raises:
        ValueError: unknown options, or data that is not there.
    """
    choice = config.task.source
    entry = TASKS[choice.name]
    return entry.make(**checked_options(entry.make, choice, "task"))


def make_network(
    config: RunConfig,
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    module: nn.Module | None,
) -> Network:
    """The network with its initial weights, which follow from the seed.

    Args:
        config: settings.
        input_shape: of one example.
        num_outputs: width of the output; None: an embedding, of any width.
        module: the user's own, or None for the one that the settings name.

    Raises:
        ValueError: the model does not fit the task.
    """
    if module is None:
        entry = MODELS[config.model.name]
        options = checked_options(entry.make, config.model, "model")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            try:
                module = entry.make(input_shape=input_shape, num_outputs=num_outputs, **options)
            except (RuntimeError, MemoryError) as error:  # tensors that can not be made
                sizes = ", ".join(f"model.{key}={value}" for key, value in options.items())
                raise ValueError(
                    f"model={config.model.name} must fit into the memory, got {sizes} "
                    f"({first_line(error)}); lower them"
                ) from error
    network = Network.of(module, _precision_of_layers(config))
    x = _made_up_inputs(input_shape)
    _check_fit(network, x, num_outputs)
    return network.traced(x)


def _precision_of_layers(config: RunConfig) -> Precision:
    return "bfloat16" if config.runtime.precision == "bfloat16" else "float32"


def _made_up_inputs(input_shape: tuple[int, ...]) -> Tensor:
    # Two rows: batch statistics need two, and all-equal inputs have no variance.
    return torch.linspace(-1, 1, 2 * int(np.prod(input_shape))).reshape(2, *input_shape)


def _check_fit(network: Network, x: Tensor, num_outputs: int | None) -> None:
    try:
        with torch.no_grad():
            got = tuple(network.apply(network.init_params(), x).shape)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"the model must take inputs of shape {tuple(x.shape[1:])}, got: {error}; "
            "choose another model or task"
        ) from error
    if num_outputs is None:
        if len(got) < 2 or got[0] != 2:
            raise ValueError(
                f"the model must give one embedding per input, got shape {got} for 2 inputs; "
                "change its last layer"
            )
    elif got != (2, num_outputs):
        raise ValueError(
            f"the model must give {num_outputs} outputs for this task (shape (2, {num_outputs}) "
            f"for 2 inputs), got shape {got}; change its last layer, or task.ways"
        )


def num_outputs_of(method: Any, source: TaskSource, config: RunConfig) -> int | None:
    """Width of the network's output for the settings' tasks; None where the method embeds."""
    return None if embeds(method) else source.num_outputs(config.task.evaluation.ways)


def make_algorithm(
    config: RunConfig,
    network: Network,
    loss: Loss,
    input_shape: tuple[int, ...],
    make: Callable[..., Algorithm] | None = None,
) -> Algorithm:
    """The method that the settings name, or the user's own.

    Args:
        config: settings.
        network: its network.
        loss: of support and query set.
        input_shape: of one example.
        make: the user's own factory; None: that of the settings, with their options.

    Raises:
        ValueError: unknown or impossible options.
    """
    options: dict[str, Any] = {}
    if make is None:
        make = ALGORITHMS[config.algorithm.name].make
        options = checked_options(make, config.algorithm, "algorithm")
    # These two are for methods with parameters of their own, beside the network's.
    beside = {"input_shape": input_shape, "init_seed": config.seed}
    taken = inspect.signature(make).parameters
    options |= {key: value for key, value in beside.items() if key in taken}
    return make(network=network, loss=loss, **options)


def algorithm_of(
    config: RunConfig, source: TaskSource, model: Any, loss: Loss | None, own: Any
) -> Algorithm:
    """The method on its network.

    Args:
        config: settings.
        source: of the tasks.
        model: the user's own network, or None.
        loss: the user's own, or None.
        own: the user's own method, or None: a factory, or one that is ready.

    Raises:
        ValueError: it can not be made of these.
    """
    if own is not None and not inspect.isclass(own) and hasattr(own, "adapt"):
        network = dataclasses.replace(own.network, precision=_precision_of_layers(config))
        network = network.traced(_made_up_inputs(source.input_shape))
        ready: Algorithm = dataclasses.replace(own, network=network)
        return ready
    method = ALGORITHMS[config.algorithm.name].make if own is None else own
    outputs = num_outputs_of(method, source, config)
    network = make_network(config, source.input_shape, outputs, model)
    loss = loss_of(config.loss, source.kind) if loss is None else loss
    return make_algorithm(config, network, loss, source.input_shape, own)


def make_estimator(config: RunConfig) -> Estimator:
    """The meta-gradient estimator that the settings name.

    Raises:
        ValueError: unknown or impossible options.
    """
    choice, precision = config.gradient, config.runtime.precision
    if choice.name == "finite_difference" and precision != "float32":
        raise ValueError(
            "runtime.precision must be float32 with gradient=finite_difference, whose differences "
            f"are lost in a coarser one, got {precision}; remove it, or choose gradient=exact"
        )
    if choice.name in EXACT:  # the run reads the budget, no estimator does
        options = {key: v for key, v in choice.options.items() if key != MEMORY_BUDGET}
        choice = Choice(choice.name, options)
    entry = ESTIMATORS[choice.name]
    return entry.make(**checked_options(entry.make, choice, "gradient"))


def first_line(error: BaseException) -> str:
    """Of its message."""
    return str(error).strip().partition("\n")[0]
