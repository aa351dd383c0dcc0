"""Tasks of blocks are those of the source, however and in whatever order they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dmeta.bilevel.types import Kind, Task
from dmeta.runtime.messages import Block
from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import (
    BatchSize,
    DrawnTask,
    EpisodeSize,
    Size,
    Split,
    TaskSource,
    can_pick,
)
from dmeta.training.setup import prepare
from dmeta.training.work.episodes import TaskSupply, task_rng
from tests.conftest import tiny_config

SIZE = EpisodeSize(3, 2, 4)


def turned_glyphs() -> ImageClasses:
    """Each class four times, as Omniglot's."""
    glyphs = make_glyphs(num_classes=15, drawings=6)
    turns = {s: np.array([(c, t) for c, _ in pairs for t in range(4)]) for s, pairs in glyphs.splits.items()}  # noqa: E501  # fmt: skip
    return replace(glyphs, splits=turns)


def in_colour() -> ImageClasses:
    glyphs = turned_glyphs()
    return replace(glyphs, images=np.stack([glyphs.images, 255 - glyphs.images, glyphs.images // 2], -1))  # noqa: E501  # fmt: skip


class HandedThrough:
    """Stands for another source, as one that lies in the object store."""

    def __init__(self, source: ImageClasses) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def block(step: int, index: int, phase: Split = "train") -> Block:
    return Block(phase, step, index, 3 * index, 3)


def drawn(supply: TaskSupply, of: Block, size: Size) -> DrawnTask:
    """Of a block whose tasks are of one size."""
    (group,) = supply.draw(of, 7, size)
    assert (group.places, group.ways) == (tuple(range(of.num_slots)), size.ways)
    return group.tasks


def placed(supply: TaskSupply, of: Block, size: Size) -> Task:
    return supply.place(drawn(supply, of, size), of.phase)


def one_by_one(source: TaskSource, size: EpisodeSize, of: Block) -> list[list[list[torch.Tensor]]]:
    tasks = []
    for slot in range(of.first_slot, of.first_slot + of.num_slots):
        arrays = source.draw(of.phase, size, task_rng(7, of, slot))
        x, y, query_x, query_y = map(torch.from_numpy, arrays)
        tasks.append([[source.preprocess(x), y], [source.preprocess(query_x), query_y]])
    return tasks


@pytest.mark.parametrize(
    ("source", "size"),
    [
        (turned_glyphs(), SIZE),
        (in_colour(), SIZE),
        (HandedThrough(turned_glyphs()), SIZE),
        (Sinusoid(), EpisodeSize(1, 5, 6)),
    ],
    ids=["grey", "colour", "another's", "without examples"],
)
def test_a_blocks_tasks_are_those_that_the_source_draws(
    source: TaskSource, size: EpisodeSize
) -> None:
    supply = TaskSupply(source, "cpu")
    for of in (block(0, 0), block(5, 2), block(0, 1, "test")):
        got = placed(supply, of, size)
        for i, task in enumerate(one_by_one(source, size, of)):
            for examples, expected in zip(got, task, strict=True):
                for tensor, wanted in zip(examples, expected, strict=True):
                    assert torch.equal(tensor[i], wanted)


def test_turned_images_are_numpys_turned_images() -> None:
    for source in (turned_glyphs(), in_colour()):
        stored = torch.from_numpy(source.images)
        for turn in range(4):
            got = source.take(stored, torch.tensor([[5, turn], [8, turn]]))
            expected = np.rot90(source.images[[5, 8]], turn, axes=(1, 2))
            assert np.array_equal(got.numpy(), expected)


@dataclass(frozen=True)
class Counting:
    """Notes what is drawn of it."""

    draws: list[int] = field(default_factory=list)
    kind: Kind = "regression"

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        self.draws.append(1)
        return Sinusoid().draw(split, size, rng)


def test_what_is_drawn_ahead_is_what_follows_and_changes_nothing() -> None:
    size = EpisodeSize(1, 5, 6)
    counting, plain = Counting(), TaskSupply(Sinusoid(), "cpu")
    supply = TaskSupply(counting, "cpu")  # type: ignore[arg-type]

    def drawn_now(of: Block) -> int:
        before = len(counting.draws)
        got, expected = drawn(supply, of, size), drawn(plain, of, size)
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
        now = len(counting.draws) - before
        if of.phase == "train":
            supply.draw_ahead(of, 7, size)
        return now

    asked = [block(step, index) for step in range(4) for index in (0, 2)]
    assert [drawn_now(of) for of in asked] == [3, 3, 3, 0, 0, 0, 0, 0]
    assert drawn_now(block(0, 1, "val")) == 3
    assert drawn_now(block(4, 0)) == 0, "an evaluation between two steps costs nothing"
    assert drawn_now(block(4, 1)) == 3, "another block than in the last step"


def test_examples_of_another_are_on_the_device_too() -> None:
    supply = TaskSupply(HandedThrough(turned_glyphs()), "cpu")  # type: ignore[arg-type]
    assert supply._examples is not None
    assert TaskSupply(Sinusoid(), "cpu")._examples is None


def test_a_single_block_a_step_is_drawn_ahead_from_the_first_step_on() -> None:
    counting = Counting()
    supply = TaskSupply(counting, "cpu")  # type: ignore[arg-type]
    for step in range(3):
        supply.draw(block(step, 0), 7, EpisodeSize(1, 5, 6))
        supply.draw_ahead(block(step, 0), 7, EpisodeSize(1, 5, 6))
    assert len(counting.draws) == 3 * 4


def test_a_step_back_is_a_step_like_any_other() -> None:
    """As after a lost server, whose steps are taken again."""
    supply, plain = TaskSupply(Sinusoid(), "cpu"), TaskSupply(Sinusoid(), "cpu")
    size = EpisodeSize(1, 5, 6)
    for step in (0, 1, 2, 0, 1):
        of = block(step, 0)
        got, expected = drawn(supply, of, size), drawn(plain, of, size)
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
        supply.draw_ahead(block(step, 0), 7, size)


def test_examples_are_brought_to_a_gpu_only_if_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    source, brought = turned_glyphs(), []
    free = 4 * source.images.nbytes
    supply = TaskSupply(source, "cuda")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: brought.append(device) or self)
    for free_bytes, expected in ((free - 1, []), (free, [torch.device("cuda")])):
        monkeypatch.setattr(
            "dmeta.training.work.episodes.free_gpu_bytes", lambda _, f=free_bytes: f
        )
        supply.bring_examples()
        assert brought == expected


class Noisy(HandedThrough):
    """Hands through another's pick, but draws in its own way."""

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        return self._source.draw(split, size, rng)._replace(query_y=np.zeros(12, np.int64))


def test_who_draws_in_another_way_is_asked_to_draw() -> None:
    class Inherited(ImageClasses):  # type: ignore[misc]
        def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
            return super().draw(split, size, rng)._replace(query_y=np.zeros(12, np.int64))

    glyphs = turned_glyphs()
    inherited = Inherited(glyphs.images, glyphs.class_names, glyphs.starts, glyphs.splits)
    for source in (Noisy(glyphs), inherited):
        assert not can_pick(source)
        supply = TaskSupply(source, "cpu")  # type: ignore[arg-type]
        assert not drawn(supply, block(0, 0), SIZE).query_y.any()
    assert can_pick(HandedThrough(glyphs))  # type: ignore[arg-type]


def test_on_a_gpu_the_next_block_is_drawn_with_the_runs_own_seed_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(tiny_config(tmp_path))
    asked: list[Any] = []
    work, vector = run.work.build("cpu"), run.outer.initial
    monkeypatch.setattr(work._supply, "draw_ahead", lambda *args: asked.append(args))
    work.gradient(vector, block(0, 0))
    assert asked == []
    monkeypatch.setattr(work, "_queues", True)
    work.gradient(vector, block(0, 0))
    assert asked == [(block(0, 0), run.config.seed, run.config.task.training)]


def test_a_mini_batch_is_the_support_and_the_query_set() -> None:
    source, of = turned_glyphs(), block(3, 1)
    for each in (source, HandedThrough(source)):
        supply = TaskSupply(each, "cpu")  # type: ignore[arg-type]
        got = placed(supply, of, BatchSize(6, source.num_classes("train")))
        assert got.support is got.query
        for i, slot in enumerate(range(of.first_slot, of.first_slot + of.num_slots)):
            x, y = source.draw_batch("train", 6, task_rng(7, of, slot))
            assert torch.equal(got.support.x[i], source.preprocess(torch.from_numpy(x)))
            assert got.support.y[i].tolist() == y.tolist()
