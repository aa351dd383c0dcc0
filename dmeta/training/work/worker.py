"""Computes one block: draw its tasks, run the algorithm on them, sum. Knows no runtime.

Letters: T tasks of the block, S support examples, Q query examples, K inner steps at evaluation.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dmeta.algorithms.algorithm import Algorithm, with_network
from dmeta.bilevel.compiled import block_program
from dmeta.bilevel.flat import Layout, WirePrecision, to_wire
from dmeta.bilevel.plans import PlanName, arranged, chunks, for_each_task, joined, one_by_one
from dmeta.bilevel.solvers import recording
from dmeta.bilevel.surrogates import Estimator, predict_apart, predict_queries
from dmeta.bilevel.types import Adapted, Kind, Params, Stage, Task
from dmeta.runtime.messages import (
    Block,
    BlockReport,
    GradientResult,
    Vector,
)
from dmeta.runtime.options import Precision
from dmeta.tasks.source import EpisodeSize, Size, TaskSource
from dmeta.training.devices.gpu import set_up_gpu
from dmeta.training.devices.gpu_watch import GpuWatch, watched
from dmeta.training.frozen_weights import PackedNetwork, packed, unpacked
from dmeta.training.work.compile_lock import compiled_in_turn
from dmeta.training.work.episodes import TaskSupply, task_seeds
from dmeta.training.work.timer import Laps

StatisticsMode: TypeAlias = Literal["transductive", "non_transductive"]
MODES: tuple[StatisticsMode, ...] = ("transductive", "non_transductive")
TARGET = "target"

BLOCK_PARTS = ("draw", "move", "mathematics", "pack")
"""Of the computation of a training block: its tasks are drawn, moved to the device (as are the
meta-parameters) and preprocessed; their meta-gradient is computed, and made a result of."""


def metric_name(kind: Kind) -> str:
    """``accuracy`` (a fraction, higher is better) or ``mse`` (lower is better)."""
    return "accuracy" if kind == "classification" else "mse"


def metric_of(kind: Kind, prediction: Tensor, target: Tensor) -> Tensor:
    """[..., Q, W] logits and [..., Q] labels, or [..., Q, D] values twice, to [...].

    A classification that is not finite (`finite_rows`) is wrong, whatever the label; a squared
    error of values that are not finite is NaN or infinite.
    """
    if kind == "classification":
        right = (prediction.argmax(-1) == target) & finite_rows(kind, prediction)
        return right.float().mean(-1)
    return (prediction - target).square().flatten(-2).mean(-1)


def finite_rows(kind: Kind, prediction: Tensor) -> Tensor:
    """Which predictions [..., Q, D] mean anything: bool [..., Q].

    A classification does if its largest logit is finite: one that is NaN makes ``argmax`` answer
    with its place, while -inf is a class that is ruled out. Values do if all are finite.
    """
    if kind == "classification":
        return prediction.amax(-1).isfinite()
    return prediction.isfinite().all(-1)


@dataclass(frozen=True)
class TaskWorkFactory:
    """Plain data that becomes a `TaskWork` on a device.

    Attributes:
        algorithm: adapt and predict, its network on the CPU.
        estimator: what is differentiated.
        plan: how the tasks of a block are computed.
        chunk_size: most tasks at once, where they are not computed one by one; None: all.
        precision: of the computation.
        gradient_precision: of the meta-gradient on its way to the server.
        source: where tasks come from.
        training: size of a training task, or of a mini-batch.
        evaluation: size of an evaluation task.
        layout: names and shapes of the meta-parameter vector.
        seed: of the training tasks.
        eval_seed: of the validation and test tasks.
    """

    algorithm: Algorithm
    estimator: Estimator
    plan: PlanName
    chunk_size: int | None
    precision: Precision
    gradient_precision: WirePrecision
    source: TaskSource
    training: Size
    evaluation: EpisodeSize
    layout: Layout
    seed: int
    eval_seed: int

    def build(self, device: str) -> TaskWork:
        """The worker's side."""
        return TaskWork(self, device)

    def __reduce__(self) -> tuple[Any, ...]:
        """Tensors travel as arrays, which lie once on a node for all its workers."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        sent = packed(self.algorithm.network)
        fields["algorithm"] = with_network(self.algorithm, sent.network)
        return _received, (type(self), fields, sent)


class BlockInputs(NamedTuple):
    """The last arguments of `dmeta.bilevel.plans.block_gradient`.

    Attributes:
        algorithm: in training mode, on the tasks' device.
        meta_params: name -> tensor.
        tasks: T tasks, stacked.
        stage: of all of them.
        task_seeds: [T], of what a method draws for each.
    """

    algorithm: Algorithm
    meta_params: Params
    tasks: Task
    stage: Stage
    task_seeds: Tensor

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return next(iter(self.meta_params.values())).device


class TaskWork:
    """Computes blocks on one device (a `dmeta.runtime.protocol.Worker`).

    Attributes:
        watch: of the device.
    """

    def __init__(self, factory: TaskWorkFactory, device: str) -> None:
        self._factory = factory
        self._device = device
        self._queues = device != "cpu"  # a GPU computes while this process goes on
        if self._queues:
            set_up_gpu(factory.precision)
        self.watch = GpuWatch(self._queues)
        self._supply = TaskSupply(factory.source, device)
        network = factory.algorithm.network
        in_training = network.to(device, training=True)
        # From that one: what is frozen lies on the device once.
        in_evaluation = in_training.to(device, training=False)
        self._training = with_network(factory.algorithm, in_training)
        self._evaluation = with_network(factory.algorithm, in_evaluation)
        self._block_gradient = block_program(
            factory.plan, factory.estimator, self._training, factory.chunk_size
        )
        if factory.plan == "compiled":
            what = f"{factory.layout} {factory.training} {factory.chunk_size}"
            self._block_gradient = compiled_in_turn(self._block_gradient, what)

    def block_inputs(self, vector: Vector, block: Block) -> BlockInputs:
        """What the meta-gradient of a training block is computed from, on this device."""
        return self._inputs(vector, block, Laps(self._device))

    def _inputs(self, vector: Vector, block: Block, laps: Laps) -> BlockInputs:
        factory = self._factory
        drawn = self._supply.draw(block, factory.seed, factory.training)
        seeds = task_seeds(factory.seed, block)
        laps.end("draw")
        params, tasks = self._params(vector), self._supply.place(drawn)
        laps.end("move")
        stage = Stage(training=True, ways=factory.training.ways, step=block.step, seed=factory.seed)
        return BlockInputs(self._training, params, tasks, stage, seeds)

    def tasks_at_once(self, block: Block) -> int:
        """Most tasks of the block that are computed at a time."""
        most = self._factory.chunk_size or block.num_slots
        return 1 if one_by_one(self._factory.plan) else min(most, block.num_slots)

    @watched
    def gradient(self, vector: Vector, block: Block) -> GradientResult:
        """Sum of the block's meta-gradients at `vector`, and its report."""
        self._supply.bring_examples()
        laps = Laps(self._device)
        factory = self._factory
        inputs = self._inputs(vector, block, laps)
        result = self._block_gradient(*inputs[1:])
        if self._queues:
            self._supply.draw_ahead(block, factory.seed, factory.training)
        laps.end("mathematics")
        flat = factory.layout.flatten(result.gradients)
        gradient = to_wire(flat, factory.gradient_precision)
        metric = metric_of(factory.source.kind, result.predictions, inputs.tasks.query.y)
        sums = {
            "loss": float(result.losses.double().sum()),
            metric_name(factory.source.kind): float(metric.double().sum()),
            **{name: float(value.double().sum()) for name, value in result.notes.items()},
        }
        finite = bool(flat.isfinite().all() and np.isfinite(list(sums.values())).all())
        laps.end("pack")
        parts = laps.seconds()
        return GradientResult(
            gradient, BlockReport(block, sums, finite, sum(parts.values()), part_seconds=parts)
        )

    @watched
    def evaluate(self, vector: Vector, block: Block) -> BlockReport:
        """Per task and inner step: the metric, transductive and not ([T, K+1] each).

        And how many query predictions are not finite (`non_finite_of`), likewise. With
        predictions, also what `predict_task` says of them.
        """
        started = time.perf_counter()
        self._supply.bring_examples()
        factory = self._factory
        drawn = self._supply.draw(block, factory.eval_seed, factory.evaluation)
        tasks = self._supply.place(drawn)
        params = arranged(factory.plan, self._params(vector))
        stage = Stage(training=False, ways=factory.evaluation.ways)

        def scores(task: Task) -> dict[str, Tensor]:
            predictions = predict_task(self._evaluation, params, task, stage)
            kind = factory.source.kind
            out = {**scores_of(kind, predictions), **non_finite_of(kind, predictions)}
            return out | predictions if block.with_predictions else out

        with torch.no_grad():
            parts = chunks((tasks, task_seeds(factory.eval_seed, block)), factory.chunk_size)
            out = joined([for_each_task(factory.plan, scores, *part) for part in parts])
        per_task = {name: value.float().cpu().numpy() for name, value in out.items()}
        finite = all(bool(np.isfinite(value).all()) for value in per_task.values())
        return BlockReport(block, {}, finite, time.perf_counter() - started, per_task)

    def _params(self, vector: Vector) -> dict[str, Tensor]:
        # A copy: the vector may be shared memory, and nothing may ever write to it.
        return self._factory.layout.unflatten(torch.tensor(vector, device=self._device))


def predictions_key(mode: StatisticsMode) -> str:
    """Under which `predict_task` has the predictions of a mode."""
    return f"{mode}_prediction"


def non_finite_key(mode: StatisticsMode) -> str:
    """Under which `non_finite_of` has the counts of a mode."""
    return f"{mode}_non_finite"


def predict_task(
    algorithm: Algorithm, meta_params: Params, task: Task, stage: Stage
) -> dict[str, Tensor]:
    """Query predictions of one task after 0, 1, ..., K inner steps.

    Returns:
        ``transductive_prediction`` [K+1, Q, ...]: the query set is predicted as one batch, so batch
        statistics see all of it; ``non_transductive_prediction`` [K+1, Q, ...]: batch statistics
        are those of the support set alone. The same where the network has no batch statistics, or
        never those of queries.
        ``target`` [Q, ...].
    """
    path: list[Adapted] = []
    final = algorithm.adapt(meta_params, task.support, recording(path.append), stage)
    states = path or [final]
    together = torch.stack([predict_queries(algorithm, state, task) for state in states])
    apart = together
    if algorithm.network.mixes_examples and not algorithm.network.queries_apart:
        apart = torch.stack([predict_apart(algorithm, state, task) for state in states])
    keys = [predictions_key(mode) for mode in MODES]
    return {**dict(zip(keys, (together, apart), strict=True)), TARGET: task.query.y}


def scores_of(kind: Kind, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The metric of what `predict_task` predicted: mode -> [..., K+1], tasks in front or not."""
    scores: dict[str, Tensor] = {}
    for mode in MODES:
        target = predictions[TARGET].unsqueeze(-2 if kind == "classification" else -3)
        scores[mode] = metric_of(kind, predictions[predictions_key(mode)], target)
    return scores


def non_finite_of(kind: Kind, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How many query predictions of `predict_task` are not finite: [..., K+1] for each mode."""
    return {
        non_finite_key(mode): (~finite_rows(kind, predictions[predictions_key(mode)])).sum(-1)
        for mode in MODES
    }


def _received(
    kind: type[TaskWorkFactory], fields: dict[str, Any], sent: PackedNetwork
) -> TaskWorkFactory:
    fields["algorithm"] = with_network(fields["algorithm"], unpacked(sent))
    return kind(**fields)
