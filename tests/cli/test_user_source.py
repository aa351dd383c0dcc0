"""The defaults for an own task source follow from its inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dmeta
from dmeta.cli.settings.user_source import defaults_for, refuse_ignored
from dmeta.cli.tune import Search
from dmeta.tasks.source import DrawnTask, EpisodeSize, Split


@dataclass(frozen=True)
class Shaped:
    """Draws zeros of a shape and type."""

    input_shape: tuple[int, ...]
    dtype: Any = np.float32
    kind = "classification"

    def num_outputs(self, ways: int) -> int:
        return ways

    def check(self, split: Split, size: EpisodeSize) -> None:
        if size.shots > 15:
            raise ValueError("shots must be <= 15; lower task.shots")

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        n = size.ways * size.shots
        x, y = np.zeros((n, *self.input_shape), self.dtype), np.zeros(n, np.int64)
        return DrawnTask(x, y, x, y)

    def preprocess(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("source", "model"),
    [
        (Shaped((1, 28, 28)), "conv4"),
        (Shaped((3, 16, 40)), "conv4"),
        (Shaped((3, 8, 40)), "conv4_strided"),
        (Shaped((12,)), "mlp"),
    ],
)
def test_the_model_fits_the_inputs_and_there_is_no_joint_baseline(
    source: Shaped, model: str
) -> None:
    chosen = defaults_for(source, ["steps=3", "model.context=0"], has_network=False)
    assert chosen == [f"model={model}", "joint_baseline=false"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            Shaped((12,), np.int64),
            r"whole numbers \(input_shape \(12,\)\), .*'model.num_tokens'",
        ),
        (Shaped((12, 5)), "examples of 2 dimensions"),
        (Shaped(()), "examples of 0 dimensions"),
    ],
)
def test_a_model_must_be_given_for_other_inputs(source: Shaped, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        defaults_for(source, [], has_network=False)
    assert defaults_for(source, [], has_network=True) == ["joint_baseline=false"]


@pytest.mark.parametrize("key", ["model=resnet12", "+model=mlp", "task=glyphs", "experiment=x"])
def test_what_the_settings_say_is_left_alone(key: str) -> None:
    assert defaults_for(Shaped((12, 5)), [key], has_network=False) == []


def test_tasks_that_cannot_be_drawn_are_refused_by_the_source_itself() -> None:
    with pytest.raises(ValueError, match=r"lower task\.shots"):
        defaults_for(Shaped((12,)), ["task.shots=16"], has_network=False)


def test_a_search_on_an_own_source_has_a_model_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Search] = []
    monkeypatch.setattr("dmeta.cli.tune._run", lambda search, *_: asked.append(search))
    for rate in ("choice(0.1,0.2)", 0.1):
        settings = {"run_dir": str(tmp_path / "search"), "outer.lr": rate, "search.num_trials": 2}
        dmeta.tune(settings | {"steps": "choice(2,4)"}, source=Shaped((1, 28, 28)))
    assert [search.config.model.name for search in asked] == ["conv4", "conv4"]
    assert not any(search.config.joint_baseline for search in asked)


@pytest.mark.parametrize(
    ("key", "argument"),
    [
        ("algorithm.inner_lr", "algorithm"),
        ("model.hidden", "model"),
        ("task.amplitude_max", "source"),
        ("+task.noise", "source"),
    ],
)
def test_a_setting_that_an_own_object_does_not_read_is_refused(key: str, argument: str) -> None:
    own = {"algorithm": Shaped, "model": torch.nn.ReLU(), "source": Shaped((4,))}
    refuse_ignored([f"{key}=1"], {})
    refuse_ignored(["task.train_shots=2", "outer.lr=0.1", "algorithm=maml"], own)
    words = rf"^{re.escape(key.lstrip('+'))} must not be set together with {argument}=\.\.\., which"
    with pytest.raises(ValueError, match=words):
        refuse_ignored(["steps=1", f"{key}=1"], own)


@pytest.mark.parametrize("verb", [dmeta.train, dmeta.tune])
def test_it_is_refused_before_anything_is_written(verb: Any, tmp_path: Path) -> None:
    settings = {"run_dir": str(tmp_path / "run"), "algorithm.inner_lr": 0.5}
    words = r"algorithm\.inner_lr must not be set together with algorithm=.*, got Shaped; leave"
    with pytest.raises(ValueError, match=words):
        verb(settings, algorithm=Shaped)
    assert not list(tmp_path.iterdir())
