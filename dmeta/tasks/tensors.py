"""Tasks that are given as tensors, checked and stacked: for training loops of a user's own.

Letters: T tasks, S support examples, Q query examples, W ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dmeta.bilevel.types import Examples, Kind, Task

GivenTask: TypeAlias = Task | Sequence[Any]
"""A `Task`, or (support_x, support_y, query_x, query_y): tensors or arrays."""

GivenTasks: TypeAlias = GivenTask | Sequence[GivenTask]
"""T tasks, stacked in the form of one, or one after the other."""

_NAMES = ("support_x", "support_y", "query_x", "query_y")


def stacked_tasks(given: GivenTasks, like: Tensor) -> list[Task]:
    """The tasks in groups that can be computed together: T of one size stacked, or [1, ...] each.

    Args:
        given: T tasks.
        like: arrays become tensors on its device, floats of its type; tensors are left as they are,
            but for labels and token ids, which become int64.

    Raises:
        ValueError: they are not tasks; the message says what to change.
    """
    if isinstance(given, Task) or (len(given) and _is_array(given[0])):
        return [_checked(_task(given, like))]
    if not len(given):
        raise ValueError("tasks must be at least one, got none; give some")
    each = [_task(task, like) for task in given]
    if len({_shapes(task) for task in each}) == 1:
        return [_checked(pytree.tree_map(lambda *rows: torch.stack(rows), *each))]
    return [_checked(pytree.tree_map(lambda rows: rows[None], task)) for task in each]


def stacked_task(given: GivenTask, like: Tensor, *, batched: bool | None) -> Task:
    """One task, or T that are stacked, as T stacked ones.

    Args:
        given: the tensors.
        like: as for `stacked_tasks`.
        batched: whether they are T tasks; None: if the targets have one dimension more than those
            of one task usually have: labels [S], values [S, D].

    Raises:
        ValueError: they are not tasks, or their number is ambiguous.
    """
    task = _task(given, like)
    y = task.support.y
    if batched is None:
        single = (1,) if kind_of(y) == "classification" else (1, 2)
        if y.dim() not in (*single, single[-1] + 1):
            raise ValueError(
                f"support_y must be labels [S] or [T, S], or values [S, D] or [T, S, D], got "
                f"{list(y.shape)}; say with batched=True or False whether these are several tasks"
            )
        batched = y.dim() not in single
    return _checked(task if batched else pytree.tree_map(lambda rows: rows[None], task))


def given_examples(x: Any, y: Any, like: Tensor) -> Examples:
    """The support set of one task (see `stacked_tasks`).

    Raises:
        ValueError: x and y are not of as many examples, or of none.
    """
    support = Examples(_tensor(x, like), _tensor(y, like))
    rows = [len(part) if part.dim() else 0 for part in support]
    if rows[0] != rows[1] or rows[0] == 0:
        raise ValueError(
            f"x and y must be of as many examples, at least one, got {rows[0]} and {rows[1]}; "
            "give one target for each input"
        )
    return support


def kind_of(targets: Tensor) -> Kind:
    """Whole numbers are labels, all others values."""
    return "regression" if targets.is_floating_point() else "classification"


def ways_of(*targets: Tensor) -> int:
    """W, the highest label and 1; 1 for a regression. Reads the labels from their device.

    Raises:
        ValueError: a label is below 0.
    """
    if kind_of(targets[0]) == "regression":
        return 1
    labels = torch.cat([part.reshape(-1) for part in targets])
    if int(labels.min()) < 0:
        raise ValueError(
            f"labels must be 0..W-1, got {int(labels.min())}; number the classes of each task from "
            "0"
        )
    return int(labels.max()) + 1


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _task(given: GivenTask, like: Tensor) -> Task:
    parts = [*given[0], *given[1]] if isinstance(given, Task) else list(given)
    if len(parts) != len(_NAMES):
        raise ValueError(
            f"a task must be {', '.join(_NAMES)}, got {len(parts)} parts; give these four"
        )
    support_x, support_y, query_x, query_y = (_tensor(part, like) for part in parts)
    return Task(Examples(support_x, support_y), Examples(query_x, query_y))


def _tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        tensor = value.detach()
    else:
        tensor = torch.as_tensor(np.asarray(value), device=like.device)
        tensor = tensor.to(like.dtype) if tensor.is_floating_point() else tensor
    if tensor.is_floating_point():
        return tensor
    return tensor.to(like.dtype if tensor.dtype == torch.bool else torch.int64)


def _shapes(task: Task) -> tuple[torch.Size, ...]:
    return tuple(part.shape for part in pytree.tree_leaves(task))


def _checked(tasks: Task) -> Task:
    """T stacked tasks.

    Raises:
        ValueError: they are of different numbers of tasks or examples.
    """
    shapes = dict(zip(_NAMES, (list(shape) for shape in _shapes(tasks)), strict=True))
    heads = [shape[:2] for shape in shapes.values()]
    same = heads[0] == heads[1] and heads[2] == heads[3] and heads[0][:1] == heads[2][:1]
    if not same or min(len(head) for head in heads) < 2 or 0 in (*heads[0], *heads[2]):
        shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            "stacked tasks must be inputs [T, S, ...] and [T, Q, ...] with targets for each of "
            f"them, T, S and Q at least 1, got {shown}; correct them"
        )
    return tasks
