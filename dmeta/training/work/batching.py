"""Drawn tasks as every method takes them: stacked, as float32 or int64.

Whole numbers are int64 (labels, token ids), all others float32. Whose tasks they are is unknown
here.

Tasks of one size are stacked and computed together. Where sizes vary, each size is a group of its
own: no example is made up to fill a task, so a method and its batch statistics see what was drawn.

Letters: T tasks, S support examples, Q query examples, W ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.bilevel.types import Kind
from dmeta.tasks.source import DrawnTask

_REMEDY = "correct the source's draw"


class TaskGroup(NamedTuple):
    """Tasks of a block that are of one size.

    Attributes:
        places: which of the block's slots they have, counted from 0.
        ways: W of each; 1 for a regression.
        tasks: stacked in this order, as drawn.
    """

    places: tuple[int, ...]
    ways: int
    tasks: DrawnTask


def one_group(tasks: DrawnTask, ways: int) -> list[TaskGroup]:
    """All tasks of a block, which are of one size."""
    return [TaskGroup(tuple(range(len(tasks.support_y))), ways, tasks)]


def grouped(tasks: Sequence[DrawnTask], kind: Kind, most_ways: int) -> list[TaskGroup]:
    """Tasks of any sizes by their size, in the order in which the sizes first come.

    Args:
        tasks: as drawn.
        kind: of the tasks.
        most_ways: classes that a task may have at most.

    Raises:
        ValueError: as of `stacked`; or a task's support set lacks one of its classes.
    """
    _check_form(tasks)
    by_size: dict[Any, list[int]] = {}
    for place, task in enumerate(tasks):
        ways = 1 if kind == "regression" else _ways_of(task, most_ways)
        shapes = tuple(np.shape(part) for part in task)
        by_size.setdefault((ways, shapes), []).append(place)
    return [
        TaskGroup(tuple(places), ways, stacked([tasks[i] for i in places], kind, ways))
        for (ways, _), places in by_size.items()
    ]


def stacked(tasks: Sequence[DrawnTask], kind: Kind, ways: int) -> DrawnTask:
    """T tasks, stacked: x as the source stores them, y as the loss takes them.

    Labels of any whole type become int64, and targets of a regression, of any type, float32.

    Args:
        tasks: as drawn; all of one size.
        kind: of the tasks.
        ways: W.

    Raises:
        ValueError: they are of different sizes, of no numbers, or have a label outside 0..W-1.
    """
    _check_form(tasks)
    parts = {name: _together(name, [task[i] for task in tasks]) for i, name in enumerate(_NAMES)}
    for name in ("support_y", "query_y"):
        parts[name] = _targets(name, parts[name], kind, ways)
    return DrawnTask(**parts)


_NAMES = DrawnTask._fields


def as_input(x: Tensor) -> Tensor:
    """A preprocessed input as networks take it: float32, or int64 if it is of whole numbers.

    float16 and float64 become float32, and truth values 0.0 and 1.0. Other whole numbers become
    int64, which `torch.nn.Embedding` reads as they are.
    """
    if x.dtype.is_floating_point or x.dtype == torch.bool:
        return x.to(torch.float32)
    return x.to(torch.int64)


def _check_form(tasks: Sequence[DrawnTask]) -> None:
    if wrong := [task for task in tasks if not isinstance(task, tuple) or len(task) != 4]:
        raise ValueError(
            "draw must return support_x, support_y, query_x and query_y (a "
            f"dmeta.tasks.source.DrawnTask), got {type(wrong[0]).__name__}; {_REMEDY}"
        )


def _ways_of(task: DrawnTask, most: int) -> int:
    """W: the labels of the support set are 0..W-1, each of them at least once."""
    labels = np.unique(task.support_y)
    if not len(labels):
        raise ValueError(f"support_y must have a label at least, got none; {_REMEDY}")
    if labels.dtype.kind not in "iub" or not np.array_equal(labels, np.arange(len(labels))):
        raise ValueError(
            "the support set must have an example of each class, labelled from 0 on, got labels "
            f"{', '.join(map(str, labels[:10]))}; {_REMEDY}"
        )
    if len(labels) > most:
        raise ValueError(
            f"a task must have at most {most} classes (task.ways), got {len(labels)}; raise "
            f"task.ways, or {_REMEDY}"
        )
    return len(labels)


def _together(name: str, parts: Sequence[Any]) -> npt.NDArray[Any]:
    arrays = [np.asarray(part) for part in parts]
    if len(shapes := {array.shape for array in arrays}) > 1:
        raise ValueError(
            "all tasks of a split must be of one size, for they are computed together, got "
            f"{name} of shapes {' and '.join(str(list(shape)) for shape in sorted(shapes))}; "
            f"{_REMEDY} to give as many examples for every task"
        )
    array = np.stack(arrays)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers, got {array.dtype}; {_REMEDY}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch has no arithmetic for them
        return array.astype(np.int64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _targets(name: str, y: npt.NDArray[Any], kind: Kind, ways: int) -> npt.NDArray[Any]:
    if kind == "regression":
        return y.astype(np.float32, copy=False)
    if y.dtype.kind not in "iub" or y.ndim != 2:
        raise ValueError(
            f"{name} must be labels 0..{ways - 1}, whole numbers of shape [n], got {y.dtype} of "
            f"shape {list(y.shape[1:])}; {_REMEDY}"
        )
    y = y.astype(np.int64, copy=False)
    if y.size and not (y.min() >= 0 and y.max() < ways):
        raise ValueError(
            f"{name} must be labels 0..{ways - 1} (task.ways is {ways}), got labels "
            f"{y.min()}..{y.max()}; number the classes of each task from 0 in the source's draw"
        )
    return y
