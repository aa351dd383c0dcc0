"""From settings to everything that a run needs, checked before any process is started.

The one place where the parts (`dmeta.training.build`) and the runtime's factories are joined.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import (
    Algorithm,
    constants,
    has_teachers,
    moving_averages,
    with_network,
)
from dmeta.bilevel.chain import is_carried
from dmeta.bilevel.compiled import CompiledBlocks
from dmeta.bilevel.flat import Layout
from dmeta.bilevel.plans import PlanName, block_gradient
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.types import Loss, Params, Stage, Task
from dmeta.metrics.metric import Metric
from dmeta.models import MODELS
from dmeta.options import NamedOptions
from dmeta.tasks.augmentation.augment import ImageTransform
from dmeta.tasks.source import SPLITS, Split, TaskSource, is_fixed
from dmeta.tasks.tensors import ways_of
from dmeta.training.augment_choice import augmentation_in, check_named, with_augment_name
from dmeta.training.autotune.memory_prediction import PeakMemory
from dmeta.training.autotune.plan_check import Comparison
from dmeta.training.build import algorithm_of, first_line, make_estimator, make_source
from dmeta.training.config import RunConfig
from dmeta.training.frozen_weights import with_digest
from dmeta.training.initial_weights import with_initial_weights
from dmeta.training.metric_choice import is_own, metrics_of, with_metric_names
from dmeta.training.outer.optimizers import check_optimizer
from dmeta.training.outer.server import OuterLoopFactory
from dmeta.training.task_fit import check_method, check_tasks, with_check_sum, with_classes
from dmeta.training.task_options import TaskOptions
from dmeta.training.teachers import with_teachers
from dmeta.training.work.input_format import InputFormat, input_format
from dmeta.training.work.task_checks import first_task, probe_of
from dmeta.training.work.worker import TaskWorkFactory


@dataclass(frozen=True)
class PlanChoice:
    """Which execution plan was chosen, and from what (`dmeta.training.autotune.planning`).

    Attributes:
        plan: the chosen one.
        chunk_size: tasks that it computes at once.
        seconds: plan -> seconds of the run's first block, the least of a few.
        left_out: plan -> why it was not timed, or not taken.
        comparison: of its meta-gradient with that of the plain loop; None: nothing was compared.
        operations: floating-point operations of one task's meta-gradient; None: not counted.
    """

    plan: PlanName
    chunk_size: int
    seconds: Mapping[PlanName, float] = field(default_factory=dict)
    left_out: Mapping[PlanName, str] = field(default_factory=dict)
    comparison: Comparison | None = None
    operations: int | None = None


@dataclass(frozen=True)
class Run:
    """One run, ready to be handed to a runtime.

    Attributes:
        config: its settings.
        algorithm: the method, its network holding the initial weights.
        work: becomes each worker.
        outer: becomes the server.
        inputs: what the examples of its tasks are.
        memory: of a block, where `gradient.memory_budget` is set
            (`dmeta.training.autotune.memory_budget`).
        own: which of its parts are the user's own objects (``model``, ``source``, ``algorithm``,
            ``loss``, ``metrics``, ``augment``): those are in no config.
        other_tasks: name -> those of other sources that it is finally evaluated on, too.
        plan: how ``compute.plan`` and ``compute.chunk_size`` were settled; None: not yet. Then the
            work is by ``vmap``, if the settings do not say otherwise.
    """

    config: RunConfig
    algorithm: Algorithm
    work: TaskWorkFactory
    outer: OuterLoopFactory
    inputs: InputFormat
    own: tuple[str, ...] = ()
    memory: PeakMemory | None = None
    plan: PlanChoice | None = None
    other_tasks: Mapping[str, TaskOptions] = field(default_factory=dict)

    @property
    def source(self) -> TaskSource:
        """Where the tasks come from."""
        return self.work.source

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Of validation and test tasks; the first is the primary one."""
        return self.work.metrics


def _check_gradient(
    config: RunConfig,
    algorithm: Algorithm,
    estimator: Estimator,
    probe: Task,
    initial: Params,
) -> None:
    """Try estimator and plan, with one inner step, on a few examples of a training task.

    Raises:
        ValueError: they make no sense with this method or model; the message says why.
    """
    if not initial:
        raise ValueError(
            f"algorithm={config.algorithm.name} must have something to learn, got "
            f"model={config.model.name} without parameters; choose another model, or for mlp raise "
            "model.num_layers"
        )
    size = config.task.training
    if config.compute.plan == "compiled" and not is_fixed(size):
        raise ValueError(
            "compute.plan must be auto, measure, loop or vmap where tasks are of several sizes "
            f"(task.train_sampler={getattr(size, 'sampler', '')}), got compiled; change it"
        )
    ways = size.ways if is_fixed(size) else ways_of(probe.support.y)
    task: Task = pytree.tree_map(lambda rows: rows[None], probe)
    stage = Stage(training=True, ways=ways, inner_steps=1)
    with torch.random.fork_rng(devices=[]):
        try:
            found = block_gradient("loop", estimator, algorithm, initial, task, stage).gradients
        except RuntimeError as error:  # NotImplementedError is one
            if "not implemented" not in str(error):
                raise
            raise ValueError(
                f"gradient={config.gradient.name} must have a model whose operations torch can "
                f"differentiate so often, got: {first_line(error)}; choose gradient=first_order, "
                "or replace that operation"
            ) from error
        _check_carried(config, found)
        if config.compute.plan in ("vmap", "compiled"):
            try:
                block_gradient("vmap", estimator, algorithm, initial, task, stage)
            except RuntimeError as error:
                raise ValueError(
                    f"compute.plan={config.compute.plan} must have a model that torch.func.vmap "
                    f"can map over tasks, got: {first_line(error)}; choose compute.plan=loop or "
                    "auto"
                ) from error
        if config.compute.plan == "compiled":
            CompiledBlocks(estimator, algorithm).num_operations(initial, task, stage, None)


def _check_carried(config: RunConfig, gradients: Params) -> None:
    """Raises ValueError if what the inner update carries from task to task is never moved."""
    carried = [name for name in gradients if is_carried(name)]
    if carried and not any(gradients[name].any() for name in carried):
        raise ValueError(
            "gradient must be displacement with an inner update that hands its state on to the "
            f"next tasks, got {config.gradient.name}, with which {carried[0]} stays 0; set "
            "gradient=displacement, or remove what asks for it (carried_adam in "
            "algorithm.inner_chain, algorithm.carry_moments)"
        )


def prepare(
    config: RunConfig,
    *,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    algorithm: Any = None,
    loss: Loss | None = None,
    metrics: Sequence[str | Metric] | None = None,
    augment: ImageTransform | None = None,
    data: TaskSource | None = None,
    splits: Sequence[Split] | None = None,
    read_weights: bool = True,
) -> Run:
    """Build and check everything; starts nothing, writes nothing.

    Args:
        config: settings.
        model: a user's own network instead of the named one.
        source: a user's own task source instead of the named one.
        algorithm: a user's own method, called with ``network=, loss=`` (class or partial), or an
            `Algorithm` that is ready.
        loss: a user's own loss, (prediction, target) -> scalar mean.
        metrics: instead of those that the settings name, also a user's own.
        augment: a user's own augmentation of training images instead of the named ones.
        data: the source that the settings name, where it was made before.
        splits: of which tasks will be drawn; None: those that the run draws.
        read_weights: begin with the weights in `model.init_from`, and those of the method's
            teachers; not where a checkpoint follows.

    Raises:
        ValueError: whatever is wrong, with the key to change.
    """
    estimator = make_estimator(config)
    # Unknown names are refused before a data set is read.
    method = ALGORITHMS[config.algorithm.name].make if algorithm is None else algorithm
    if model is None:
        MODELS[config.model.name]
    check_optimizer(config.outer)
    names = own_names(model=model, source=source, algorithm=algorithm, loss=loss)
    given = {"model": model, "source": source, "algorithm": algorithm, "loss": loss}
    given["augment"] = augment
    own = tuple(name for name, each in given.items() if each is not None)
    own += ("metrics",) if is_own(metrics) else ()
    config = with_metric_names(named_after(config, names), metrics)
    config = with_augment_name(config, augment)
    check_named(config, augment, splits)
    if source is None:
        source = data or make_source(config)
        config = with_check_sum(config, source)
    check_method(config, source, method)
    if splits is None:
        splits = [split for split in SPLITS if split != "val" or config.eval.every]
    chosen = metrics_of(config, source, metrics)
    config = with_classes(config, source, splits)
    check_tasks(config, source, method, splits)
    changes = augmentation_in(config, augment, source, splits)
    probe = probe_of(first_task(config, source, splits, changes))
    inputs = input_format(source, probe.support)
    algorithm = algorithm_of(config, source, model, loss, algorithm, probe)
    if {"model", "algorithm"} & set(own):
        config = with_digest(config, algorithm.network, of_model="model" in own)
    if read_weights:
        config, network = with_initial_weights(config, algorithm.network)
        if network is not algorithm.network:
            algorithm = with_network(algorithm, network)
    initial = algorithm.init_meta_params()
    if read_weights and has_teachers(algorithm):
        config, taught = with_teachers(config, algorithm)
        initial = {**initial, **taught}
    _check_gradient(config, algorithm, estimator, probe, initial)
    work, outer = _factories(config, algorithm, estimator, source, initial, chosen)
    work = dataclasses.replace(work, augmentation=changes)
    return Run(config, algorithm, work, outer, inputs, own)


def _factories(
    config: RunConfig,
    algorithm: Algorithm,
    estimator: Estimator,
    source: TaskSource,
    initial: Params,
    metrics: tuple[Metric, ...],
) -> tuple[TaskWorkFactory, OuterLoopFactory]:
    """What becomes each worker, and what becomes the server."""
    layout, options = Layout.of(initial), config.compute
    work = TaskWorkFactory(
        algorithm=algorithm,
        estimator=estimator,
        plan="vmap" if options.plan == "auto" or options.plan == "measure" else options.plan,
        chunk_size=None if options.chunk_size == "auto" else options.chunk_size,
        precision=options.precision,
        gradient_precision=options.gradient_precision,
        source=source,
        training=config.task.training,
        evaluation=config.task.evaluation,
        layout=layout,
        seed=config.seed,
        eval_seed=config.eval.seed,
        metrics=metrics,
    )
    vector = layout.flatten(initial).float().numpy()
    # Its gradient of 0 is not enough to leave a constant where it is: weight decay would move it.
    averages = {**dict.fromkeys(constants(algorithm), 0.0), **moving_averages(algorithm)}
    return work, OuterLoopFactory(vector, layout, config.outer, config.steps, averages=averages)


def own_names(**own: Any) -> dict[str, str]:
    """Group of settings -> name of the user's own object that stands for it.

    Args:
        own: as `prepare` takes them; None: there is none.
    """
    groups = {
        _GROUPS.get(key, key): thing
        for key, thing in own.items()
        if thing is not None and key not in _NAMED_APART
    }
    return {group: _own_name(thing) for group, thing in groups.items()}


_GROUPS = {"source": "task"}

_NAMED_APART = ("augment", "metrics")
"""Own objects that `with_augment_name` and `with_metric_names` name."""


def named_after(config: RunConfig, names: Mapping[str, str]) -> RunConfig:
    """Settings that name the user's own objects instead of what they stand in for.

    Args:
        config: settings.
        names: `own_names`.
    """
    changes: dict[str, Any] = {
        group: name if group == "loss" else NamedOptions(name, {}) for group, name in names.items()
    }
    if "task" in changes:
        changes["task"] = dataclasses.replace(config.task, source=changes["task"])
    return dataclasses.replace(config, **changes)


def _own_name(thing: Any) -> str:
    named = inspect.isclass(thing) or inspect.isfunction(thing)
    kind = thing if named else getattr(thing, "func", type(thing))
    return str(kind.__name__)
