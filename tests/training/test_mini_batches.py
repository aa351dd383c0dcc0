"""Runs that are trained on mini-batches of all training classes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dmeta
from dmeta.algorithms.base_classes import WEIGHT
from dmeta.algorithms.baseline import Baseline
from dmeta.tasks.glyphs import make_glyphs
from dmeta.training.config import run_config
from dmeta.training.setup import prepare
from tests.conftest import tiny_config

GLYPHS = {"task": "glyphs", "task.num_classes": 30, "task.drawings": 8, "task.ways": 3}
BASELINE = {"algorithm": "simpleshot", "gradient": "exact", "task.train_examples": 8, **GLYPHS}
NUM_BASE_CLASSES = 19


def config(run_dir: Path, **changes: Any) -> Any:
    settings = {key.replace(".", "__"): value for key, value in BASELINE.items()}
    return tiny_config(run_dir, **{**settings, **changes})


def test_the_number_of_classes_is_noted(tmp_path: Path) -> None:
    run = prepare(config(tmp_path))
    assert run.config.task.training.ways == NUM_BASE_CLASSES
    assert run.algorithm.init_meta_params()[WEIGHT].shape[0] == NUM_BASE_CLASSES
    assert run_config(run.config.as_mapping()) == run.config
    assert prepare(run.config).config.fingerprint() == run.config.fingerprint()


SEVERAL: dict[str, Any] = {
    "task": "mixture",
    "task__sources": [
        {"name": "glyphs", "num_classes": 30, "drawings": 8},
        {"name": "glyphs", "num_classes": 40, "drawings": 8, "seed": 1},
    ],
}
SIZES = [NUM_BASE_CLASSES, 26]


def several(run_dir: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {"algorithm": "baseline", "task__train_examples": 8}
    settings |= {"task__ways": 3, "task__queries": 5}
    return tiny_config(run_dir, **{**settings, **SEVERAL, **changes})


def test_the_classes_of_each_data_set_are_noted_and_given_to_the_method(tmp_path: Path) -> None:
    seen = []

    def make(*, base_class_sizes: tuple[int, ...], **own: Any) -> Baseline:
        seen.append(base_class_sizes)
        return Baseline(**own)

    vars(make).update(embeds=True, kinds=("classification",), trains_on_batches=True)
    config = several(tmp_path)
    make = functools.partial(make, input_shape=(1, 28, 28), num_base_classes=sum(SIZES))  # type: ignore[assignment]
    run = prepare(config, algorithm=make)
    assert seen == [tuple(SIZES)]
    assert run.config.task.training.ways == sum(SIZES)
    assert run_config(json.loads(json.dumps(run.config.as_mapping()))) == run.config
    own = prepare(several(tmp_path, task__train_class_sizes=SIZES), algorithm=make)
    assert own.config.fingerprint() == run.config.fingerprint()


def test_the_settings_of_a_run_on_one_data_set_are_those_from_before(tmp_path: Path) -> None:
    run = prepare(config(tmp_path))
    assert "train_class_sizes" not in run.config.as_mapping()["task"]
    one = prepare(several(tmp_path, task__sources=SEVERAL["task__sources"][:1]))
    assert one.config.task.training.ways_of_sets == (NUM_BASE_CLASSES,)
    assert "train_class_sizes" not in one.config.as_mapping()["task"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task__train_class_sizes": [19, 25]},
            r"train_class_sizes must be \[19, 26\].*\[19, 25\]",
        ),
        ({"task__train_class_sizes": [0, 45]}, r"task\.train_class_sizes must be >= 1"),
        (
            {"task__sources": SEVERAL["task__sources"][:1], "task__train_class_sizes": [19, 26]},
            r"train_class_sizes must be null",
        ),
    ],
)
def test_other_numbers_of_classes_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(several(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task__train_examples": None},
            "task.train_examples must be given for algorithm=simpleshot",
        ),
        ({"algorithm": "protonet"}, "task.train_examples must be null for algorithm=protonet"),
        ({"task__train_examples": 1000}, "task.train_examples must be <= 152"),
        ({"task__train_classes": 7}, "task.train_classes must be 19"),
        ({"task__train_shots": 2}, "task.train_shots must be null with task.train_examples"),
        (
            {"task__train_examples": None, "task__train_classes": 19},
            "task.train_classes must be null without task.train_examples",
        ),
        (
            {"task__train_examples": None, "task__train_class_sizes": [10, 9]},
            "task.train_class_sizes must be null without task.train_examples",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path, **changes))


class Episodic:
    """A source of the user's that draws few-shot tasks alone."""

    def __init__(self) -> None:
        self._glyphs = make_glyphs(num_classes=30)
        self.kind, self.input_shape = self._glyphs.kind, self._glyphs.input_shape
        self.num_outputs, self.check = self._glyphs.num_outputs, self._glyphs.check
        self.draw, self.preprocess = self._glyphs.draw, self._glyphs.preprocess


def test_a_source_without_mini_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have a task source that draws mini-batches"):
        prepare(config(tmp_path), source=Episodic())  # type: ignore[arg-type]


def test_a_run_is_the_same_after_a_resume_and_is_loaded_without_its_data(tmp_path: Path) -> None:
    settings = {**BASELINE, "steps": 4, "meta_batch_size": 4, "compute.block_size": 2}
    settings |= {"runtime": "local", "eval.num_tasks": 4, "eval.val_tasks": 4, "eval.every": 0}
    whole = dmeta.train({**settings, "run_dir": str(tmp_path / "whole")})
    begun = {**settings, "run_dir": str(tmp_path / "parts"), "steps": 2}
    dmeta.train(begun)
    resumed = dmeta.train({**begun, "steps": 4, "resume": True})
    assert resumed.meta_params_sha256 == whole.meta_params_sha256
    learner = dmeta.load(tmp_path / "whole")
    assert learner.meta_params["simpleshot/center"].abs().max() > 0
    support = torch.rand(4, 1, 28, 28)
    adapted = learner.adapt(support, ["a", "b", "c", "d"])
    assert adapted.predict(torch.rand(3, 1, 28, 28)).shape == (3, 4)
    other = dmeta.evaluate(
        tmp_path / "whole", num_tasks=4, task={"ways": 5, "shots": 2, "num_classes": 40}
    )
    assert other.num_tasks == 4
