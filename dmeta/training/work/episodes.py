"""The tasks of a block: drawn from their seeds and moved to the device that computes them.

Letters: T tasks of the block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.bilevel.types import Examples, Task
from dmeta.runtime.messages import Block
from dmeta.tasks.augmentation.augment import Augmentation
from dmeta.tasks.classes import shared_tensor
from dmeta.tasks.source import (
    BatchSize,
    DrawnTask,
    Size,
    Split,
    TaskSource,
    can_pick,
    draws_batches,
)
from dmeta.training.devices.gpu_memory import free_gpu_bytes
from dmeta.training.work.batching import TaskGroup, as_input, grouped, one_group, stacked

PHASES = {"train": 0, "val": 1, "test": 2}
"""Numbers that stand for the phases where randomness is seeded."""

_MEMORY_SHARE = 0.25  # of what a GPU has free, at most, for examples


def task_rng(seed: int, block: Block, slot: int) -> np.random.Generator:
    """The generator of one task slot: a function of the four numbers, not of who asks."""
    return np.random.default_rng(rng_key(seed, block, slot))


def rng_key(seed: int, block: Block, slot: int) -> list[int]:
    """What the generator of one task slot is seeded with."""
    return [seed, PHASES[block.phase], block.step, slot]


def task_seeds(seed: int, block: Block) -> Tensor:
    """[T] int64: seeds of what a method draws for each task, functions of the slots alone."""
    rng = np.random.default_rng([seed, PHASES[block.phase], block.step, 2])
    drawn = rng.integers(2**32, size=block.first_slot + block.num_slots)  # the first ones the same
    return torch.from_numpy(drawn[block.first_slot :])


class _Wanted(NamedTuple):
    """Everything that the tasks of a block follow from."""

    block: Block
    seed: int
    size: Size


class TaskSupply:
    """Tasks for one device.

    Where the source can pick examples (`dmeta.tasks.source.PicksExamples`), these can be brought to
    the device once, in the form in which they are stored; a block is then sent the numbers of its
    rows. Where they would take more than a quarter of a GPU's free memory they stay, and the
    examples are sent. So they are in training if they are changed at random, which the CPU does.
    """

    def __init__(
        self, source: TaskSource, device: str, augmentation: Augmentation | None = None
    ) -> None:
        """Copies nothing yet.

        Args:
            source: of the tasks.
            device: where they are wanted.
            augmentation: of the images of training tasks.
        """
        self._source, self._device = source, torch.device(device)
        self._augmentation = augmentation
        self._examples: Tensor | None = None
        if can_pick(source):
            self._examples = shared_tensor(source.examples)
        self._ahead: tuple[_Wanted, list[TaskGroup]] | None = None
        self._followers: dict[int, Block] = {}  # index -> the next block, of so many steps later
        self._last: Block | None = None

    def bring_examples(self) -> None:
        """Copy the examples to the device, unless they are there or there is no room for them."""
        stored = self._examples
        is_there = stored is None or stored.device.type == self._device.type
        if stored is not None and not is_there and self._has_room(stored.nbytes):
            self._examples = stored.to(self._device)

    def draw(self, block: Block, seed: int, size: Size) -> list[TaskGroup]:
        """The tasks of a block, those of one size stacked, on the CPU.

        A mini-batch is its support and query set.

        Args:
            block: the block.
            seed: of the tasks.
            size: of each.
        """
        wanted = _Wanted(block, seed, size)
        if self._ahead is not None and self._ahead[0] == wanted:
            return self._ahead[1]
        return self._drawn(wanted)

    def draw_ahead(self, block: Block, seed: int, size: Size) -> None:
        """Draw what is likely to be wanted next: what came after such a block in the last step.

        To be called after every block, while a GPU computes it. If another one is wanted next,
        nothing but this work is lost.
        """
        if self._last is not None and block.step >= self._last.step:  # not after a step back
            steps = block.step - self._last.step
            self._followers[self._last.index] = dataclasses.replace(block, step=steps)
        self._last = block
        follower = self._followers.get(block.index, dataclasses.replace(block, step=1))
        expected = dataclasses.replace(follower, step=block.step + follower.step)
        wanted = _Wanted(expected, seed, size)
        self._ahead = (wanted, self._drawn(wanted))

    def place(self, drawn: DrawnTask, split: Split) -> Task:
        """T stacked tasks on the device, preprocessed: x float32, or int64 of whole numbers.

        Args:
            drawn: what `draw` has returned.
            split: that they are of.
        """
        inputs = self._inputs if self._augments(split) is None else self._prepared
        support = self._examples_of(inputs, drawn.support_x, drawn.support_y)
        if drawn.query_x is drawn.support_x:
            return Task(support, support)
        return Task(support, self._examples_of(inputs, drawn.query_x, drawn.query_y))

    def _augments(self, split: Split) -> Augmentation | None:
        return self._augmentation if split == "train" else None

    def _examples_of(
        self,
        inputs: Callable[[Tensor], Tensor],
        x: npt.NDArray[np.generic],
        y: npt.NDArray[np.generic],
    ) -> Examples:
        return Examples(inputs(torch.from_numpy(x)), torch.from_numpy(y).to(self._device))

    def _drawn(self, wanted: _Wanted) -> list[TaskGroup]:
        block, source, size = wanted.block, self._source, wanted.size
        slots = range(block.first_slot, block.first_slot + block.num_slots)
        rngs = [task_rng(wanted.seed, block, slot) for slot in slots]
        if isinstance(size, BatchSize):
            return one_group(self._batches(block.phase, size, rngs), size.ways)
        if (changes := self._augments(block.phase)) is not None:
            tasks = [changes.task(source.draw(block.phase, size, rng), rng) for rng in rngs]
        else:
            draw = source.pick if can_pick(source) else source.draw
            tasks = [draw(block.phase, size, rng) for rng in rngs]
        if size.sampler == "fixed":
            return one_group(stacked(tasks, source.kind, size.ways), size.ways)
        return grouped(tasks, source.kind, size.ways)

    def _batches(
        self, split: Split, size: BatchSize, rngs: Sequence[np.random.Generator]
    ) -> DrawnTask:
        source = self._source
        assert draws_batches(source)
        if (changes := self._augments(split)) is not None:
            drawn = [changes.batch(source.draw_batch(split, size.examples, r), r) for r in rngs]
        else:
            draw = source.pick_batch if can_pick(source) else source.draw_batch
            drawn = [draw(split, size.examples, rng) for rng in rngs]
        none = np.zeros((0,), np.int64)
        tasks = [DrawnTask(x, y, none, none) for x, y in drawn]
        both = stacked(tasks, source.kind, size.ways)
        return DrawnTask(both.support_x, both.support_y, both.support_x, both.support_y)

    def _inputs(self, x: Tensor) -> Tensor:
        """Of examples, or of picks where there are such."""
        if self._examples is not None:
            assert can_pick(self._source)
            x = self._source.take(self._examples, x.to(self._examples.device))
        return self._prepared(x)

    def _prepared(self, x: Tensor) -> Tensor:
        return as_input(self._source.preprocess(x.to(self._device)))

    def _has_room(self, num_bytes: int) -> bool:
        if self._device.type != "cuda":
            return True
        return num_bytes <= _MEMORY_SHARE * free_gpu_bytes(self._device)
