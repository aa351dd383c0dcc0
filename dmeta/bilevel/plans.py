"""Execution plans: how the tasks of one block are computed, in a loop or all at once.

Plans agree to rounding, not to the bit, so the plan is part of a run's settings. Where values tie
(ReLU and max-pool of a flat background), torch's derivative of a function is wrong under ``vmap``,
or a kernel is inexact, they do not agree: so a run first compares its plan with ``loop``
(`dmeta.training.autotune.plan_check`).

Letters: T tasks of the block, Q query examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.surrogates import Differentiable, Estimator
from dmeta.bilevel.types import Adapted, Examples, Loss, Outcome, Params, Stage, Task
from dmeta.randomness import drawn_for, seeded_generator, task_numbers

EagerPlan: TypeAlias = Literal["loop", "loop_channels_last", "loop_mixed", "vmap"]
"""Computed operation by operation: one task after the other, the same with the weights of
convolutions stored channels last (and with them every image on the way), the same for the query set
alone, or all tasks at once."""

PlanName: TypeAlias = Literal["loop", "loop_channels_last", "loop_mixed", "vmap", "compiled"]
"""An eager plan, or ``compiled``: ``vmap`` turned into one program (`dmeta.bilevel.compiled`)."""

In = TypeVar("In")
Out = TypeVar("Out")


class BlockGradient(NamedTuple):
    """Summed over the T tasks of a block, with the tasks' own reports.

    Attributes:
        gradients: name -> sum of the T meta-gradients.
        losses: [T] query loss after adaptation.
        predictions: [T, Q, ...] query predictions after adaptation.
        notes: name -> [T], what the estimator has to say of itself.
    """

    gradients: dict[str, Tensor]
    losses: Tensor
    predictions: Tensor
    notes: dict[str, Tensor]


TaskReport: TypeAlias = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Losses, predictions and notes of a `BlockGradient`; without T: of one task."""

Surrogates: TypeAlias = Callable[[Task], tuple[Tensor, TaskReport]]
"""A task -> the scalar to differentiate, and the report."""


def one_by_one(plan: PlanName) -> bool:
    """Whether the plan computes one task after the other."""
    return plan in ("loop", "loop_channels_last", "loop_mixed")


def eager(plan: PlanName) -> EagerPlan:
    """The plan without its compilation."""
    return "vmap" if plan == "compiled" else plan


def has_images(params: Params) -> bool:
    """Whether the memory layout of some parameter is a choice: it has 4 dimensions."""
    return any(p.dim() == 4 for p in params.values())


def arranged(plan: PlanName, params: Params) -> dict[str, Tensor]:
    """The parameters in the memory layout that the plan asks for; the same numbers."""
    if plan != "loop_channels_last":
        return dict(params)
    return {n: _channels_last(p) if p.dim() == 4 else p for n, p in params.items()}


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


class _OneWay(torch.autograd.Function):
    """[F, C, H, W] stored channels last; its gradient not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return _channels_last(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient.contiguous()


@dataclasses.dataclass(frozen=True)
class _Mixed:
    """An algorithm that predicts channels last and adapts as it is.

    First derivatives of convolutions are faster channels last on a CPU, second ones slower: those
    are of the inner steps alone.
    """

    algorithm: Differentiable

    @property
    def loss(self) -> Loss:
        return self.algorithm.loss

    @property
    def network(self) -> Any:
        return getattr(self.algorithm, "network", None)

    def with_network(self, network: Any) -> _Mixed:
        inner: Any = self.algorithm
        return _Mixed(dataclasses.replace(inner, network=network))

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
        return self.algorithm.adapt(meta_params, support, solve, stage)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        def placed(part: Any) -> Any:
            is_image = isinstance(part, Tensor) and part.dim() == 4
            return _OneWay.apply(part) if is_image else part  # type: ignore[no-untyped-call]

        return self.algorithm.predict(pytree.tree_map(placed, adapted), x)


def for_each_task(
    plan: PlanName, function: Callable[[In], Out], tasks: In, task_seeds: Tensor
) -> Out:
    """`function` of every task, its outputs (a pytree of tensors) stacked in front.

    What it draws by `dmeta.randomness` follows from the task's seed, whatever the plan. Torch's own
    generators are seeded for each task under the loops, and refused otherwise: the tasks would
    share them.

    Args:
        plan: ``compiled`` is as ``vmap`` here.
        function: pure; must not look at the values of its tensors under ``vmap``.
        tasks: T tasks (a pytree of tensors), stacked.
        task_seeds: [T] int64 on the CPU.

    Raises:
        RuntimeError: ``vmap`` cannot map the function; the message says why.
    """
    if one_by_one(plan):
        return _stacked([_alone(function, *seeded) for seeded in _unstack((tasks, task_seeds))])

    def seeded_task(task: In, seed: Tensor) -> Out:
        with task_numbers(seed):
            return function(task)

    try:
        mapped: Out = torch.func.vmap(seeded_task, randomness="error")(tasks, task_seeds)
    except RuntimeError as error:
        if "randomness error mode" not in str(error):
            raise
        raise RuntimeError(
            "the model or method draws from torch's generator, which all tasks would share "
            "(attention or RNN dropout, torch.randn): choose the plan loop, or draw by nn.Dropout, "
            "F.dropout or dmeta.randomness"
        ) from error
    return mapped


def _alone(function: Callable[[In], Out], task: In, seed: Tensor) -> Out:
    device = pytree.tree_leaves(task)[0].device
    with task_numbers(seed), seeded_generator("", device):
        return function(task)


def block_gradient(
    plan: EagerPlan,
    estimator: Estimator,
    algorithm: Differentiable,
    meta_params: Params,
    tasks: Task,
    stage: Stage,
    task_seeds: Tensor | None = None,
    chunk_size: int | None = None,
) -> BlockGradient:
    """Sum of the block's meta-gradients.

    Under ``vmap`` the sum of all surrogates is differentiated once, so that work on the shared
    meta-parameters (the first inner step above all) is not repeated per task; under the loops each
    task's graph is freed before the next is built.

    Args:
        plan: how.
        estimator: what is differentiated.
        algorithm: adapt, predict and loss.
        meta_params: name -> float tensor; gradients get the same names and shapes.
        tasks: T tasks, stacked.
        stage: of all of them, but for the task's seed.
        task_seeds: [T] int64 on the CPU, of what a method draws for each; None: 0 for all.
        chunk_size: most tasks at once under ``vmap``; None: all T.
    """
    leaves = {
        name: p.detach().requires_grad_(True) for name, p in arranged(plan, meta_params).items()
    }
    if plan == "loop_mixed":
        algorithm = _Mixed(algorithm)
    surrogate = surrogates(estimator, algorithm, leaves, stage)
    seeded = (tasks, seeds_of(tasks, task_seeds))
    total: dict[str, Tensor] | None = None
    reports: list[TaskReport] = []
    for part in _unstack(seeded) if one_by_one(plan) else chunks(seeded, chunk_size):
        if one_by_one(plan):
            scalar, report = _alone(surrogate, *part)
        else:
            scalars, report = for_each_task("vmap", surrogate, *part)
            scalar = scalars.sum()
        gradients = gradients_of(scalar, leaves)
        total = gradients if total is None else {n: total[n] + g for n, g in gradients.items()}
        reports.append(report)
    assert total is not None, "a block has at least one task"
    return BlockGradient(total, *(_stacked(reports) if one_by_one(plan) else joined(reports)))


def surrogates(
    estimator: Estimator, algorithm: Differentiable, leaves: Params, stage: Stage
) -> Surrogates:
    """The estimator's surrogate of the task that is drawn for, as every plan computes it."""

    def surrogate(task: Task) -> tuple[Tensor, TaskReport]:
        own = dataclasses.replace(stage, task_seed=drawn_for().seed)
        value = estimator(algorithm, leaves, task, own)
        return value.scalar, (value.loss, value.prediction, dict(value.notes))

    return surrogate


def gradients_of(scalar: Tensor, leaves: Params) -> dict[str, Tensor]:
    """Name -> d scalar / d leaf."""
    # A meta-parameter that a task does not use (a dead branch, zero inner steps) has gradient 0.
    grads = torch.autograd.grad(scalar, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))


def seeds_of(tasks: Task, task_seeds: Tensor | None) -> Tensor:
    """[T] the tasks' seeds; 0 where there are none."""
    num_tasks = len(tasks.support.x)
    return torch.zeros(num_tasks, dtype=torch.int64) if task_seeds is None else task_seeds


def chunks(stacked: In, chunk_size: int | None) -> list[In]:
    """A pytree of tensors [T, ...], cut into such of at most `chunk_size` tasks."""
    num_tasks = len(pytree.tree_leaves(stacked)[0])
    size = num_tasks if chunk_size is None else chunk_size
    firsts = range(0, num_tasks, size)
    return [pytree.tree_map(lambda t, i=i: t[i : i + size], stacked) for i in firsts]


def joined(parts: list[Out]) -> Out:
    """The inverse of `chunks`."""
    if len(parts) == 1:
        return parts[0]
    together: Out = pytree.tree_map(lambda *leaves: torch.cat(leaves), *parts)
    return together


def _stacked(rows: list[Out]) -> Out:
    stacked: Out = pytree.tree_map(lambda *leaves: torch.stack(leaves), *rows)
    return stacked


def _unstack(tasks: In) -> list[In]:
    leaves, spec = pytree.tree_flatten(tasks)
    rows: list[Any] = [[leaf[i] for leaf in leaves] for i in range(leaves[0].shape[0])]
    return [pytree.tree_unflatten(row, spec) for row in rows]
