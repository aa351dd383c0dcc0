"""Augmentation in runs: of training tasks alone, the same bits on any worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dmeta
from dmeta.runtime.messages import Block
from dmeta.tasks.source import BatchSize, EpisodeSize, Size, Split
from dmeta.training.config import run_config
from dmeta.training.setup import prepare
from dmeta.training.work.episodes import TaskSupply
from tests.conftest import tiny_config

GLYPHS = {"task": "glyphs", "task.num_classes": 30, "task.drawings": 8, "task.ways": 3}
AUGMENT = ["flip", {"name": "crop", "padding": 3}]


def config(run_dir: Path, **changes: Any) -> Any:
    settings = {"algorithm": "protonet", **GLYPHS, "task.augment": AUGMENT, **changes}
    return tiny_config(run_dir, **{key.replace(".", "__"): v for key, v in settings.items()})


def supplies(run_dir: Path) -> tuple[TaskSupply, TaskSupply]:
    """With augmentation, and without."""
    work = prepare(config(run_dir)).work
    return TaskSupply(work.source, "cpu", work.augmentation), TaskSupply(work.source, "cpu")


def images(supply: TaskSupply, phase: Split, first: int, slots: int, size: Size) -> Tensor:
    of = Block(phase, 4, 0, first, slots)
    [group] = supply.draw(of, 7, size)
    support, query = supply.place(group.tasks, phase)
    return torch.cat([support.x, query.x], 1)


@pytest.mark.parametrize("size", [EpisodeSize(3, 2, 2), BatchSize(6, 19)])
def test_a_slots_images_do_not_depend_on_the_block(tmp_path: Path, size: Size) -> None:
    augmented, plain = supplies(tmp_path)
    whole = images(augmented, "train", 0, 4, size)
    parts = [images(augmented, "train", first, n, size) for first, n in ((0, 1), (1, 3))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, images(plain, "train", 0, 4, size))


def test_evaluation_tasks_are_as_they_were(tmp_path: Path) -> None:
    augmented, plain = supplies(tmp_path)
    for phase in ("val", "test"):
        both = [images(each, phase, 0, 3, EpisodeSize(3, 2, 2)) for each in (augmented, plain)]
        assert torch.equal(*both)


def test_the_tasks_are_those_of_without_but_for_the_change(tmp_path: Path) -> None:
    """The augmentation draws after the task: classes and examples are those of without."""
    work = prepare(config(tmp_path, **{"task.augment": [{"name": "flip", "p": 1.0}]})).work
    size = EpisodeSize(3, 2, 2)
    mirrored = images(TaskSupply(work.source, "cpu", work.augmentation), "train", 0, 3, size)
    assert torch.equal(
        mirrored, images(TaskSupply(work.source, "cpu"), "train", 0, 3, size).flip(-1)
    )


@pytest.mark.parametrize("algorithm", ["protonet", "baseline"])
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(tmp_path: Path, algorithm: str) -> None:
    batches = {} if algorithm == "protonet" else {"task.train_examples": 8}
    own = {"algorithm": algorithm, "steps": 2, **batches}
    dmeta.train(config(tmp_path / "a", **own))
    resumed = dmeta.train(config(tmp_path / "a", **{**own, "steps": 4, "resume": True}))
    whole = dmeta.train(config(tmp_path / "b", **{**own, "steps": 4}))
    plain = dmeta.train(config(tmp_path / "c", **{**own, "steps": 4, "task.augment": []}))
    assert resumed.meta_params_sha256 == whole.meta_params_sha256
    assert plain.meta_params_sha256 != whole.meta_params_sha256


def test_the_settings_say_it_and_are_as_before_without(tmp_path: Path) -> None:
    augmented, plain = config(tmp_path), config(tmp_path, **{"task.augment": []})
    assert augmented.as_mapping()["task"]["augment"] == AUGMENT
    assert run_config(augmented.as_mapping()) == augmented
    assert "augment" not in plain.as_mapping()["task"]
    assert augmented.fingerprint() != plain.fingerprint()
    with pytest.raises(ValueError, match=r"task.augment must be a list such as \[crop,flip\]"):
        config(tmp_path, **{"task.augment": "flip"})


def test_a_mixture_is_augmented(tmp_path: Path) -> None:
    glyphs = {"name": "glyphs", "num_classes": 30, "drawings": 8}
    several = {"task": "mixture", "task.sources": [glyphs, {**glyphs, "seed": 1}], "task.ways": 3}
    several |= {"task.queries": 2}
    settings = {"algorithm": "protonet", **several, "task.augment": ["crop"]}
    own = {key.replace(".", "__"): value for key, value in settings.items()}
    work = prepare(tiny_config(tmp_path, **own)).work
    size, augmented = EpisodeSize(3, 2, 2), TaskSupply(work.source, "cpu", work.augmentation)
    found = [
        images(each, "train", 0, 2, size) for each in (augmented, TaskSupply(work.source, "cpu"))
    ]
    assert found[0].shape == found[1].shape
    assert not torch.equal(*found)


def inverted(images: Tensor) -> Tensor:
    return 255 - images


def test_a_run_with_an_augmentation_of_ones_own(tmp_path: Path) -> None:
    run_dir = tmp_path / "own"
    plain = {"task.augment": [], "steps": 2}
    trained = dmeta.train(config(run_dir, **plain), augment=inverted)
    other = dmeta.train(config(tmp_path / "plain", **plain))
    assert trained.meta_params_sha256 != other.meta_params_sha256
    saved = json.loads((run_dir / "config.json").read_text())
    assert "inverted" in json.dumps(saved)
    resume = {"run_dir": str(run_dir), "resume": True, "steps": 3, "runtime": "local"}
    with pytest.raises(ValueError, match=r"custom augment \(inverted\).*augment="):
        dmeta.train(resume)
    dmeta.train(resume, augment=inverted)
    assert dmeta.evaluate(run_dir, num_tasks=4).num_tasks == 4
    assert dmeta.load(run_dir).kind == "classification"


def test_both_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="augment must not be set together"):
        prepare(config(tmp_path), augment=inverted)
    with pytest.raises(ValueError, match="augment must not be set together"):
        dmeta.train({"task": "glyphs", "task.augment": ["flip"]}, augment=inverted)
