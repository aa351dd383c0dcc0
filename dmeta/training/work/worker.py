"""Computes one block: draw its tasks, run the algorithm on them, sum. Knows no runtime.

Letters: T tasks of the block, S support examples, Q query examples, K inner steps at evaluation.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.algorithms.algorithm import Algorithm, with_network
from dmeta.bilevel.compiled import block_program
from dmeta.bilevel.flat import Layout, WirePrecision, to_wire
from dmeta.bilevel.plans import (
    PlanName,
    arranged,
    chunks,
    for_each_task,
    joined,
    one_by_one,
)
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.types import Params, Stage, Task
from dmeta.metrics import default_metric
from dmeta.metrics.metric import Metric, scores
from dmeta.runtime.messages import (
    Block,
    BlockReport,
    GradientResult,
    TaskPredictions,
    Vector,
)
from dmeta.runtime.options import Precision
from dmeta.tasks.augmentation.augment import Augmentation
from dmeta.tasks.source import EpisodeSize, Size, TaskSource
from dmeta.training.devices.gpu import set_up_gpu
from dmeta.training.devices.gpu_watch import GpuWatch, watched
from dmeta.training.frozen_weights import PackedNetwork, packed, unpacked
from dmeta.training.work.compile_lock import compiled_in_turn
from dmeta.training.work.episodes import TaskSupply, task_seeds
from dmeta.training.work.predictions import in_place, predict_task, summed
from dmeta.training.work.scores import (
    PREDICTIONS,
    non_finite_of,
    scores_of,
)
from dmeta.training.work.timer import Laps


class EvaluationTasks(NamedTuple):
    """Tasks that the model is evaluated on.

    Attributes:
        source: where they come from.
        size: of one.
    """

    source: TaskSource
    size: EpisodeSize


BLOCK_PARTS = ("draw", "move", "mathematics", "pack")
"""Of the computation of a training block: its tasks are drawn, moved to the device (as are the
meta-parameters) and preprocessed; their meta-gradient is computed, and made a result of."""


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
        metrics: of these tasks; the first is the primary one.
        others: name -> tasks of other sources, for blocks that name one (`Block.source`).
        augmentation: of the images of training tasks; None: they stay as they are.
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
    metrics: tuple[Metric, ...]
    others: Mapping[str, EvaluationTasks] = field(default_factory=dict)
    augmentation: Augmentation | None = None

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
        self._supply = TaskSupply(factory.source, device, factory.augmentation)
        self._other_supplies = {
            name: TaskSupply(other.source, device) for name, other in factory.others.items()
        }
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

    def block_inputs(self, vector: Vector, block: Block) -> list[BlockInputs]:
        """What the meta-gradient of a training block is computed from, on this device.

        One for each size that its tasks have.
        """
        return list(self._inputs(vector, block, Laps(self._device)))

    def _inputs(self, vector: Vector, block: Block, laps: Laps) -> Iterator[BlockInputs]:
        factory = self._factory
        groups = self._supply.draw(block, factory.seed, factory.training)
        seeds = task_seeds(factory.seed, block)
        laps.end("draw")
        params = self._params(vector)
        for group in groups:
            tasks = self._supply.place(group.tasks, block.phase)
            laps.end("move")
            stage = Stage(training=True, ways=group.ways, step=block.step, seed=factory.seed)
            yield BlockInputs(self._training, params, tasks, stage, seeds[list(group.places)])

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
        metric = default_metric(factory.source.kind)
        total: dict[str, Tensor] = {}
        reported: list[dict[str, Tensor]] = []
        for inputs in self._inputs(vector, block, laps):
            result = self._block_gradient(*inputs[1:])
            target, ways = inputs.tasks.query.y, inputs.stage.ways
            found = scores(metric, result.predictions, target, ways)
            reported.append({"loss": result.losses, metric.name: found, **result.notes})
            total = {n: total[n] + g if total else g for n, g in result.gradients.items()}
            laps.end("mathematics")
        if self._queues:
            self._supply.draw_ahead(block, factory.seed, factory.training)
            laps.end("mathematics")
        flat = factory.layout.flatten(total)
        gradient = to_wire(flat, factory.gradient_precision)
        sums = summed(reported)
        finite = bool(flat.isfinite().all() and np.isfinite(list(sums.values())).all())
        laps.end("pack")
        parts = laps.seconds()
        return GradientResult(
            gradient, BlockReport(block, sums, finite, sum(parts.values()), part_seconds=parts)
        )

    @watched
    def evaluate(self, vector: Vector, block: Block) -> BlockReport:
        """Per task: the metrics, transductive and not (`scores_of`).

        And how many query predictions are not finite (`non_finite_of`), likewise. With
        predictions, also what `predict_task` says of the tasks of each size.
        """
        started = time.perf_counter()
        factory, supply, size = self._factory, self._supply, self._factory.evaluation
        if block.source is not None:
            supply, size = self._other_supplies[block.source], factory.others[block.source].size
        supply.bring_examples()
        groups = supply.draw(block, factory.eval_seed, size)
        params = arranged(factory.plan, self._params(vector))
        seeds = task_seeds(factory.eval_seed, block)
        found: list[dict[str, npt.NDArray[np.float32]]] = []
        predicted: list[TaskPredictions] = []
        for group in groups:
            with torch.no_grad():
                own = seeds[list(group.places)]
                tasks = supply.place(group.tasks, block.phase)
                out = self._evaluated(params, tasks, group.ways, own, block.with_predictions)
            arrays = {name: value.float().cpu().numpy() for name, value in out.items()}
            kept = {name: arrays.pop(name) for name in PREDICTIONS if name in arrays}
            found.append(arrays)
            if kept:
                predicted.append(TaskPredictions(group.places, group.ways, kept))
        per_task = in_place(found, [group.places for group in groups])
        values = [*per_task.values(), *(a for each in predicted for a in each.arrays.values())]
        return BlockReport(
            block,
            {},
            all(bool(np.isfinite(value).all()) for value in values),
            time.perf_counter() - started,
            per_task,
            predictions=tuple(predicted),
        )

    def _evaluated(
        self, params: Params, tasks: Task, ways: int, seeds: Tensor, keep: bool
    ) -> dict[str, Tensor]:
        """Name -> [T, ...] of the tasks of a group; their predictions if those are to be kept."""
        factory = self._factory
        stage = Stage(training=False, ways=ways)
        apart = [metric for metric in factory.metrics if not metric.batched]

        def mapped(task: Task) -> dict[str, Tensor]:
            predictions = predict_task(self._evaluation, params, task, stage)
            out = scores_of(factory.metrics, predictions, stage.ways, batched=True)
            out |= non_finite_of(factory.source.kind, predictions)
            return out | predictions if keep or apart else out

        parts = chunks((tasks, seeds), factory.chunk_size)
        out = joined([for_each_task(factory.plan, mapped, *part) for part in parts])
        if apart and not keep:
            out |= scores_of(factory.metrics, out, stage.ways, batched=False)
            out = {name: value for name, value in out.items() if name not in PREDICTIONS}
        return out

    def _params(self, vector: Vector) -> dict[str, Tensor]:
        # A copy: the vector may be shared memory, and nothing may ever write to it.
        return self._factory.layout.unflatten(torch.tensor(vector, device=self._device))


def _received(
    kind: type[TaskWorkFactory], fields: dict[str, Any], sent: PackedNetwork
) -> TaskWorkFactory:
    fields["algorithm"] = with_network(fields["algorithm"], unpacked(sent))
    return kind(**fields)
