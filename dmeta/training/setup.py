"""From settings to everything a run needs, checked before any process is started.

The one place where algorithms, models, tasks and the runtime's factories are joined.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import Algorithm, embeds, kinds
from dmeta.bilevel.compiled import CompiledBlocks
from dmeta.bilevel.estimators import ESTIMATORS
from dmeta.bilevel.flat import Layout
from dmeta.bilevel.plans import PlanName, block_gradient
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.types import Examples, Loss, Params, Stage, Task
from dmeta.models import MODELS
from dmeta.models.network import Network, Precision
from dmeta.tasks import TASKS
from dmeta.tasks.source import SPLITS, TaskSource
from dmeta.training.config import MEMORY_BUDGET, RunConfig
from dmeta.training.losses import loss_of
from dmeta.training.options import Choice, checked_options
from dmeta.training.outer import OuterLoopFactory
from dmeta.training.prediction import EXACT, PeakMemory
from dmeta.training.work import TaskWorkFactory


@dataclass(frozen=True)
class PlanChoice:
    """Which execution plan was chosen, and what it was chosen from (`dmeta.training.planning`).

    Attributes:
        plan: the chosen one.
        chunk_size: tasks that it computes at once.
        seconds: plan -> seconds of the run's first block, the least of a few.
        left_out: plan -> why it was not timed.
    """

    plan: PlanName
    chunk_size: int
    seconds: Mapping[PlanName, float] = field(default_factory=dict)
    left_out: Mapping[PlanName, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run, ready to be handed to a runtime.

    Attributes:
        config: its settings.
        algorithm: the method, its network holding the initial weights.
        work: becomes each worker.
        outer: becomes the server.
        memory: of a block, where `gradient.memory_budget` is set (`dmeta.training.budget`).
        plan: how ``runtime.plan`` and ``runtime.chunk_size`` were settled; None: not yet. Then the
            work is by ``vmap``, if the settings do not say otherwise.
    """

    config: RunConfig
    algorithm: Algorithm
    work: TaskWorkFactory
    outer: OuterLoopFactory
    memory: PeakMemory | None = None
    plan: PlanChoice | None = None

    @property
    def source(self) -> TaskSource:
        """Where the tasks come from."""
        return self.work.source


def make_source(config: RunConfig) -> TaskSource:
    """The task source that the settings name; reads its data.

    Raises:
        ValueError: unknown options, or data that is not there.
    """
    choice = config.task.source
    entry = TASKS[choice.name]
    return entry.make(**checked_options(entry.make, choice, "task"))


def check_sizes(config: RunConfig, source: TaskSource) -> None:
    """Raises ValueError if tasks of the wanted sizes can not be drawn from some split."""
    for split in SPLITS:
        size = config.task.training if split == "train" else config.task.evaluation
        source.check(split, size)


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
                    f"({_first_line(error)}); lower them"
                ) from error
    network = Network.of(module, _precision_of_layers(config))
    _check_fit(network, input_shape, num_outputs)
    return network


def _precision_of_layers(config: RunConfig) -> Precision:
    return "bfloat16" if config.runtime.precision == "bfloat16" else "float32"


def _check_fit(network: Network, input_shape: tuple[int, ...], num_outputs: int | None) -> None:
    # Two rows of noise: batch statistics need two, and all-equal inputs have no variance.
    x = torch.linspace(-1, 1, 2 * int(np.prod(input_shape))).reshape(2, *input_shape)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            got = tuple(network.apply(network.init_params(), x).shape)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"the model must take inputs of shape {input_shape}, got: {error}; "
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


def _check_gradient(
    config: RunConfig,
    algorithm: Algorithm,
    estimator: Estimator,
    source: TaskSource,
    initial: Params,
) -> None:
    """Try estimator and plan, with one inner step, on one made-up task of a row for each way.

    Raises:
        ValueError: they make no sense with this method or model; the message says why.
    """
    if not initial:
        raise ValueError(
            f"algorithm={config.algorithm.name} must have something to learn, got "
            f"model={config.model.name} without parameters; choose another model, or for mlp raise "
            "model.num_layers"
        )
    ways = config.task.training.ways
    num_rows = max(ways, 2)
    count = num_rows * math.prod(source.input_shape)
    x = torch.linspace(-1, 1, count).reshape(1, num_rows, *source.input_shape)
    if source.kind == "classification":
        y = (torch.arange(num_rows) % ways)[None]
    else:
        y = torch.zeros(1, num_rows, source.num_outputs(ways))
    task = Task(Examples(x, y), Examples(x, y))
    stage = Stage(training=True, ways=ways, inner_steps=1)
    with torch.random.fork_rng(devices=[]):
        block_gradient("loop", estimator, algorithm, initial, task, stage)
        if config.runtime.plan in ("vmap", "compiled"):
            try:
                block_gradient("vmap", estimator, algorithm, initial, task, stage)
            except RuntimeError as error:
                raise ValueError(
                    f"runtime.plan={config.runtime.plan} must have a model that torch.func.vmap "
                    f"can map over tasks, got: {_first_line(error)}; choose runtime.plan=loop or "
                    "auto"
                ) from error
        if config.runtime.plan == "compiled":
            CompiledBlocks(estimator, algorithm).num_operations(initial, task, stage, None)


def num_outputs_of(method: Any, source: TaskSource, config: RunConfig) -> int | None:
    """Width of the network's output for the settings' tasks; None where the method embeds."""
    return None if embeds(method) else source.num_outputs(config.task.evaluation.ways)


def prepare(
    config: RunConfig,
    *,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    algorithm: Any = None,
    loss: Loss | None = None,
    data: TaskSource | None = None,
) -> Run:
    """Build and check everything; starts nothing, writes nothing.

    Args:
        config: settings.
        model: an own network instead of the named one.
        source: an own task source instead of the named one.
        algorithm: an own method: called with ``network=, loss=`` (a class or a partial), or an
            `Algorithm` that is ready.
        loss: an own loss, (prediction, target) -> scalar mean.
        data: the source that the settings name, where it was made before.

    Raises:
        ValueError: whatever is wrong, with the key to change.
    """
    estimator = make_estimator(config)
    # Unknown names are told before a data set is read.
    method = ALGORITHMS[config.algorithm.name].make if algorithm is None else algorithm
    if model is None:
        MODELS[config.model.name]
    config = _named_after(config, model=model, source=source, algorithm=algorithm, loss=loss)
    source = source or data or make_source(config)
    check_sizes(config, source)
    if source.kind not in kinds(method):
        raise ValueError(
            f"algorithm={config.algorithm.name} must have {' or '.join(kinds(method))} tasks, got "
            f"{source.kind} (task={config.task.source.name}); choose another task or algorithm"
        )
    if not embeds(method) and config.task.training.ways != config.task.evaluation.ways:
        raise ValueError(
            f"task.train_ways must equal task.ways ({config.task.evaluation.ways}) for an "
            f"algorithm whose output layer has one unit per way, got {config.task.training.ways}; "
            "remove task.train_ways"
        )
    algorithm = _algorithm(config, source, model, loss, algorithm)
    initial = algorithm.init_meta_params()
    _check_gradient(config, algorithm, estimator, source, initial)
    layout, options = Layout.of(initial), config.runtime
    work = TaskWorkFactory(
        algorithm=algorithm,
        estimator=estimator,
        plan="vmap" if options.plan == "auto" else options.plan,
        chunk_size=None if options.chunk_size == "auto" else options.chunk_size,
        precision=options.precision,
        gradient_precision=options.gradient_precision,
        source=source,
        training=config.task.training,
        evaluation=config.task.evaluation,
        layout=layout,
        seed=config.seed,
        eval_seed=config.eval.seed,
    )
    vector = layout.flatten(initial).float().numpy()
    return Run(
        config, algorithm, work, OuterLoopFactory(vector, layout, config.outer, config.steps)
    )


def _algorithm(
    config: RunConfig, source: TaskSource, model: Any, loss: Loss | None, own: Any
) -> Algorithm:
    """The method on its network; both may be the user's own, or ready (see `prepare`)."""
    if own is not None and not inspect.isclass(own) and hasattr(own, "adapt"):
        network = dataclasses.replace(own.network, precision=_precision_of_layers(config))
        ready: Algorithm = dataclasses.replace(own, network=network)
        return ready
    method = ALGORITHMS[config.algorithm.name].make if own is None else own
    outputs = num_outputs_of(method, source, config)
    network = make_network(config, source.input_shape, outputs, model)
    loss = loss_of(config.loss, source.kind) if loss is None else loss
    return make_algorithm(config, network, loss, source.input_shape, own)


def _named_after(
    config: RunConfig, model: Any, source: Any, algorithm: Any, loss: Any
) -> RunConfig:
    """Settings that name the user's own objects instead of what they stand in for."""
    if model is not None:
        config = dataclasses.replace(config, model=_own(model))
    if algorithm is not None:
        config = dataclasses.replace(config, algorithm=_own(algorithm))
    if source is not None:
        task = dataclasses.replace(config.task, source=_own(source))
        config = dataclasses.replace(config, task=task)
    if loss is not None:
        config = dataclasses.replace(config, loss=_own(loss).name)
    return config


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _own(thing: Any) -> Choice:
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return Choice(thing.__name__, {})
    kind = getattr(thing, "func", type(thing))
    return Choice(kind.__name__, {})
