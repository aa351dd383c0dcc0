"""Execution plans: how the tasks of one block are computed, one after the other or all at once.

Plans agree to float tolerance, not to the bit, so the plan is part of a run's settings.

Letters: T tasks of the block, Q query examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dmeta.bilevel.estimators import Differentiable, Estimator
from dmeta.bilevel.types import Params, Stage, Task

PlanName: TypeAlias = Literal["loop", "vmap"]
In = TypeVar("In")
Out = TypeVar("Out")


class BlockGradient(NamedTuple):
    """Summed over the T tasks of a block, with the tasks' own reports beside it.

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


def for_each_task(plan: PlanName, function: Callable[[In], Out], tasks: In) -> Out:
    """`function` of every task, its outputs (a pytree of tensors) stacked in front.

    Args:
        plan: ``loop`` or ``vmap``.
        function: pure; must not look at the values of its tensors under ``vmap``.
        tasks: T tasks, or tasks and what else belongs to each (a pytree of tensors), stacked.
    """
    if plan == "vmap":
        mapped: Out = torch.func.vmap(function, randomness="different")(tasks)
        return mapped
    return _stacked([function(task) for task in _unstack(tasks)])


def block_gradient(
    plan: PlanName,
    estimator: Estimator,
    algorithm: Differentiable,
    meta_params: Params,
    tasks: Task,
    stage: Stage,
    task_seeds: Tensor | None = None,
) -> BlockGradient:
    """Sum of the block's meta-gradients.

    Under ``vmap`` the sum of all surrogates is differentiated once, so that work on the shared
    meta-parameters (the first inner step above all) is not repeated per task; under ``loop`` each
    task's graph is freed before the next is built.

    Args:
        plan: ``loop`` or ``vmap``.
        estimator: what is differentiated.
        algorithm: adapt, predict and loss.
        meta_params: name -> float tensor; gradients get the same names and shapes.
        tasks: T tasks, stacked.
        stage: of all of them, but for the task's seed.
        task_seeds: [T] int64 on the CPU, of what a method draws for each; None: 0 for all.
    """
    leaves = {name: p.detach().requires_grad_(True) for name, p in meta_params.items()}
    num_tasks = tasks.support.x.shape[0]
    seeds = torch.zeros(num_tasks, dtype=torch.int64) if task_seeds is None else task_seeds

    def surrogate(
        seeded: tuple[Task, Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor, dict[str, Tensor]]]:
        task, seed = seeded
        own = dataclasses.replace(stage, task_seed=seed)
        value = estimator(algorithm, leaves, task, own)
        return value.scalar, (value.loss, value.prediction, dict(value.notes))

    if plan == "vmap":
        scalars, reports = for_each_task("vmap", surrogate, (tasks, seeds))
        return BlockGradient(_grad(scalars.sum(), leaves), *reports)
    total: dict[str, Tensor] | None = None
    rows = []
    for seeded in _unstack((tasks, seeds)):
        scalar, report = surrogate(seeded)
        gradients = _grad(scalar, leaves)
        total = gradients if total is None else {n: total[n] + g for n, g in gradients.items()}
        rows.append(report)
    assert total is not None, "a block has at least one task"
    return BlockGradient(total, *_stacked(rows))


def _stacked(rows: list[Out]) -> Out:
    stacked: Out = pytree.tree_map(lambda *leaves: torch.stack(leaves), *rows)
    return stacked


def _grad(scalar: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    # A meta-parameter that a task does not use (a dead branch, zero inner steps) has gradient 0.
    grads = torch.autograd.grad(scalar, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))


def _unstack(tasks: In) -> list[In]:
    leaves, spec = pytree.tree_flatten(tasks)
    rows: list[Any] = [[leaf[i] for leaf in leaves] for i in range(leaves[0].shape[0])]
    return [pytree.tree_unflatten(row, spec) for row in rows]
