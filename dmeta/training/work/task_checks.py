"""Checks what a source returns, on the first tasks of a run, before anything is started.

Letters: T tasks, S support examples, Q query examples, W ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dmeta.bilevel.types import Examples, Task
from dmeta.runtime.messages import Block
from dmeta.tasks.augmentation.augment import Augmentation
from dmeta.tasks.source import (
    SPLITS,
    DrawnTask,
    EpisodeSize,
    Size,
    Split,
    TaskSource,
    is_fixed,
)
from dmeta.training.config import RunConfig
from dmeta.training.work.episodes import TaskSupply

InputDtype: TypeAlias = Literal["float32", "int64"]
"""Of what a network is given: floats, or whole numbers such as token ids."""

_NUM_TASKS = 4  # of each split; a source whose tasks vary in size seldom draws four alike


def first_task(
    config: RunConfig,
    source: TaskSource,
    splits: Sequence[Split] = SPLITS,
    augmentation: Augmentation | None = None,
) -> Task:
    """The first task of the first of some splits, as the run's workers will have it.

    Args:
        config: settings.
        source: of the tasks.
        splits: whose first tasks, those that the run will draw, are checked.
        augmentation: of the images of training tasks.

    Raises:
        ValueError: they are not what `dmeta.tasks.source.TaskSource` says.
    """
    supply = TaskSupply(source, "cpu", augmentation)
    tasks: dict[Split, Task] = {}
    for split in splits:
        is_training = split == "train"
        size = config.task.training if is_training else config.task.evaluation
        seed = config.seed if is_training else config.eval.seed
        try:
            groups = supply.draw(Block(split, 0, 0, 0, _NUM_TASKS), seed, size)
        except ValueError as error:
            raise ValueError(f"tasks of split {split!r}: {error}") from error
        placed = [_placed(supply, group.tasks, split) for group in groups]
        for group, stacked in zip(groups, placed, strict=True):
            for name in ("support", "query"):
                what = f"{name} set of split {split!r}"
                _check(what, getattr(stacked, name), len(group.places), size, source)
        tasks[split] = placed[0]
    first: Task = pytree.tree_map(lambda rows: rows[0], tasks[splits[0]])
    return first


def _placed(supply: TaskSupply, drawn: DrawnTask, split: Split) -> Task:
    try:
        return supply.place(drawn, split)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shape = list(drawn.support_x.shape)
        raise ValueError(
            "the source's preprocess must take [..., *stored_shape] with any dimensions in "
            f"front, got {shape} and: {error}; correct it"
        ) from error


def probe_of(task: Task) -> Task:
    """A small part of a task: of support and query set one example of each class.

    Of a regression two each, if there are so many.
    """
    return Task(_few(task.support), _few(task.query))


def made_up_inputs(shape: tuple[int, ...], kind: InputDtype) -> Tensor:
    """[2, *shape]: what a network can be tried on where no task is at hand."""
    x = torch.linspace(-1, 1, 2 * int(torch.Size(shape).numel())).reshape(2, *shape)
    return x if kind == "float32" else torch.zeros_like(x, dtype=torch.int64)


def _few(examples: Examples) -> Examples:
    x, y = examples
    if y.dtype != torch.int64:
        return Examples(x[:2], y[:2])
    labels = y.tolist()
    rows = [labels.index(label) for label in sorted(set(labels))]
    return Examples(x[rows], y[rows])


def _check(what: str, examples: Examples, num_tasks: int, size: Size, source: TaskSource) -> None:
    """Args: examples: of so many tasks of one size, stacked; what: they are."""
    x, y = examples
    rows = _rows_wanted(what, x, size)
    x_shape = [num_tasks, rows, *source.input_shape]
    if list(x.shape) != x_shape:
        is_episode = isinstance(size, EpisodeSize) and is_fixed(size)
        which = f"ways {size.ways} x {rows // size.ways} " if is_episode else ""
        raise ValueError(
            f"the {what} must have x of shape {x_shape[1:]} ({which}examples, "
            f"each of the source's input_shape) when preprocessed, got {list(x.shape[1:])}; "
            "correct the source's draw, preprocess or input_shape"
        )
    y_shape = [num_tasks, rows]
    if source.kind == "regression":
        y_shape.append(source.num_outputs(size.ways))
    if list(y.shape) != y_shape:
        remedy = "correct the source's draw"
        if y.dim() == 2 and y_shape[2:] == [1]:
            remedy += ": y[:, None] instead of y, for with [n] a loss compares every pair"
        raise ValueError(
            f"the {what} must have y of shape {y_shape[1:]}, as the model's predictions, got "
            f"{list(y.shape[1:])}; {remedy}"
        )
    for name, values in (("x", x), ("y", y)):
        if not values.isfinite().all():
            raise ValueError(
                f"the {what} must have finite {name}, got NaN or infinity (in float32); correct "
                "the source's data"
            )


def _rows_wanted(what: str, x: Tensor, size: Size) -> int:
    """S or Q; where sizes vary, as many as there are, which must be one at least."""
    if is_fixed(size):
        return size.num_support if what.startswith("support") else size.num_query
    if x.dim() < 2 or not x.shape[1]:
        raise ValueError(
            f"the {what} must have an example at least, got x of shape {list(x.shape[1:])}; "
            "correct the source's draw"
        )
    return x.shape[1]
