"""Builds the parts of a run from its settings: source, network, algorithm, estimator."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import Algorithm, embeds
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.types import Loss, Task
from dmeta.capacity import available_memory_bytes
from dmeta.models import MODELS
from dmeta.models.network import LayerPrecision, Network
from dmeta.options import NamedOptions, checked_options
from dmeta.tasks import TASKS
from dmeta.tasks.source import BatchSize, TaskSource
from dmeta.training.autotune.memory_prediction import EXACT
from dmeta.training.byte_size import shown_bytes
from dmeta.training.config import MEMORY_BUDGET, RunConfig
from dmeta.training.init_options import without_init
from dmeta.training.work.losses import loss_of

_TRACED_ROWS = 4  # of a task: a forward pass does the same with more
_COPIES = 4  # at least: the initial weights, those that are trained, their gradient, its sum


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
    inputs: Tensor,
) -> Network:
    """The network with its initial weights, which follow from the seed.

    Args:
        config: settings.
        input_shape: of one example.
        num_outputs: width of the output; None: an embedding, of any width.
        module: the user's own, or None for the one that the settings name.
        inputs: [N, *input_shape] of a task, preprocessed, to try it on; at least two where its
            batch statistics need so many.

    Raises:
        ValueError: the model does not fit the task.
    """
    if module is None:
        module = _named_module(config, input_shape, num_outputs)
    network = Network.of(module, _precision_of_layers(config), config.batch_norm)
    _check_batch_norm(config, network)
    _check_fit(network, inputs, num_outputs)
    return _traced(network, inputs)


def _named_module(
    config: RunConfig, input_shape: tuple[int, ...], num_outputs: int | None
) -> nn.Module:
    """The network that the settings name, its weights drawn from the seed."""
    entry = MODELS[config.model.name]
    options = checked_options(entry.make, without_init(config.model), "model")
    make = functools.partial(
        entry.make, input_shape=input_shape, num_outputs=num_outputs, **options
    )
    sizes = ", ".join(f"model.{key}={value}" for key, value in options.items())
    size_bytes = _size_bytes(make)
    free = available_memory_bytes()
    try:
        if _COPIES * size_bytes > free:
            raise MemoryError(
                f"{_COPIES} copies of {shown_bytes(size_bytes)} of weights are needed, where "
                f"{shown_bytes(free)} are free"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return make()
    except (RuntimeError, MemoryError) as error:  # tensors that cannot be made
        raise ValueError(
            f"model={config.model.name} must fit into the memory, got {sizes} "
            f"({first_line(error)}); lower them"
        ) from error


def _check_batch_norm(config: RunConfig, network: Network) -> None:
    """Raises ValueError if there is nothing that `batch_norm` could be about."""
    if config.batch_norm != "transductive" and not network.mixes_examples:
        raise ValueError(
            "batch_norm must be transductive with a model that has no layer of batch-norm, got "
            f"{config.batch_norm} with model={config.model.name}; remove it, or choose model=conv4"
        )


def _size_bytes(make: Callable[[], nn.Module]) -> int:
    """Of a module's parameters, of which none is made; 0 if that is unknown."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return sum(p.nbytes for p in make().parameters())
    except (RuntimeError, TypeError, ValueError):  # a layer that only a real device has
        return 0


def _precision_of_layers(config: RunConfig) -> LayerPrecision:
    return "bfloat16" if config.compute.precision == "bfloat16" else "float32"


def _traced(network: Network, x: Tensor) -> Network:
    """See `Network.traced`; the model may fail in a mode that it was not in before."""
    try:
        return network.traced(x[:_TRACED_ROWS])
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            "the model must compute in training and in evaluation mode, with gradients, got: "
            f"{first_line(error)}; correct its forward"
        ) from error


def _check_fit(network: Network, x: Tensor, num_outputs: int | None) -> None:
    rows, shape = len(x), tuple(x.shape[1:])
    try:
        with torch.no_grad():
            out: object = network.apply(network.init_params(), x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        kind = str(x.dtype).removeprefix("torch.")
        raise ValueError(
            f"the model must take inputs of shape {shape} and type {kind}, which the task gives, "
            f"got: {error}; choose another model or task"
        ) from error
    if not isinstance(out, Tensor):
        raise ValueError(
            f"the model must return one tensor, got {type(out).__name__}; return its logits or "
            "values alone"
        )
    got = tuple(out.shape)
    if num_outputs is None:
        if len(got) < 2 or got[0] != rows:
            raise ValueError(
                f"the model must give one embedding per input, got shape {got} for {rows} inputs; "
                "change its last layer"
            )
    elif got != (rows, num_outputs):
        raise ValueError(
            f"the model must give {num_outputs} outputs for this task (shape "
            f"({rows}, {num_outputs}) for {rows} inputs), got shape {got}; change its last layer, "
            "or task.ways"
        )


def _check_loss(loss: Loss, source: TaskSource, ways: int, target: Tensor) -> None:
    """Refuses a loss that is no differentiable mean, on predictions of the right shape."""
    outputs = source.num_outputs(ways)
    prediction = torch.linspace(-1, 1, len(target) * outputs).reshape(-1, outputs)
    prediction.requires_grad_(True)
    try:
        value: object = loss(prediction, target)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"the loss must take a prediction {list(prediction.shape)} and a target "
            f"{list(target.shape)}, got: {error}; correct it"
        ) from error
    if not isinstance(value, Tensor) or value.dim() != 0 or not value.is_floating_point():
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"the loss must return a scalar tensor, the mean over the examples, got {got}; end it "
            "with .mean()"
        )
    if not value.requires_grad:
        raise ValueError(
            "the loss must depend on the prediction by differentiable operations, got a constant; "
            "remove .detach(), .item() or numpy from it"
        )


def num_outputs_of(method: Any, source: TaskSource, config: RunConfig) -> int | None:
    """Width of the network's output for the settings' tasks; None where the method embeds."""
    return None if embeds(method) else source.num_outputs(config.task.evaluation.ways)


def algorithm_from_config(
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
    # These are for methods with parameters of their own, besides the network's.
    offered: dict[str, Any] = {"input_shape": input_shape, "init_seed": config.seed}
    if isinstance(config.task.training, BatchSize):
        offered["num_base_classes"] = config.task.training.ways
        offered["base_class_sizes"] = config.task.training.ways_of_sets
    taken = inspect.signature(make).parameters
    options |= {key: value for key, value in offered.items() if key in taken}
    return make(network=network, loss=loss, **options)


def algorithm_of(
    config: RunConfig, source: TaskSource, model: Any, loss: Loss | None, own: Any, probe: Task
) -> Algorithm:
    """The method on its network, both tried on a task.

    Args:
        config: settings.
        source: of the tasks.
        model: the user's own network, or None.
        loss: the user's own, or None.
        own: the user's own method, or None: a factory, or one that is ready.
        probe: a few examples of a training task.

    Raises:
        ValueError: it cannot be made of these.
    """
    ways, target = config.task.training.ways, probe.query.y
    if own is not None and not inspect.isclass(own) and hasattr(own, "adapt"):
        network = dataclasses.replace(own.network, precision=_precision_of_layers(config))
        if config.batch_norm != "transductive":
            network = Network.of(network.module, network.precision, config.batch_norm)
            _check_batch_norm(config, network)
        network = _traced(network, probe.support.x)
        ready: Algorithm = dataclasses.replace(own, network=network)
        _check_loss(ready.loss, source, ways, target)
        return ready
    method = ALGORITHMS[config.algorithm.name].make if own is None else own
    outputs = num_outputs_of(method, source, config)
    network = make_network(config, source.input_shape, outputs, model, probe.support.x)
    if not (embeds(method) or network.names):
        raise ValueError(
            f"the model must have a parameter to learn, got model={config.model.name} with "
            f"{sum(1 for _ in network.module.parameters())} parameters, all frozen; call "
            "requires_grad_(True) on those that are to be learned"
        )
    loss = loss_of(config.loss, source.kind) if loss is None else loss
    _check_loss(loss, source, ways, target)
    return algorithm_from_config(config, network, loss, source.input_shape, own)


def make_estimator(config: RunConfig) -> Estimator:
    """The meta-gradient estimator that the settings name.

    Raises:
        ValueError: unknown or impossible options.
    """
    choice, precision = config.gradient, config.compute.precision
    if choice.name == "finite_difference" and precision != "float32":
        raise ValueError(
            "compute.precision must be float32 with gradient=finite_difference, whose differences "
            f"are lost in a coarser one, got {precision}; remove it, or choose gradient=exact"
        )
    if choice.name in EXACT:  # the run reads the budget, no estimator does
        options = {key: v for key, v in choice.options.items() if key != MEMORY_BUDGET}
        choice = NamedOptions(choice.name, options)
    entry = ESTIMATORS[choice.name]
    return entry.make(**checked_options(entry.make, choice, "gradient"))


def first_line(error: BaseException) -> str:
    """Of its message."""
    return str(error).strip().partition("\n")[0]
