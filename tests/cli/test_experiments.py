"""Every preset: it composes, its options exist, and its method, model and gradient fit together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmeta.algorithms import ALGORITHMS
from dmeta.bilevel.types import Kind
from dmeta.cli.settings.config_files import config_dir
from dmeta.cli.settings.hydra_app import compose
from dmeta.options import default_options
from dmeta.tasks.source import DrawnBatch, DrawnTask, EpisodeSize, Split
from dmeta.training.build import make_source
from dmeta.training.config import run_config
from dmeta.training.outer.server import learning_rate
from dmeta.training.setup import prepare

PRESETS = sorted(p.stem for p in (config_dir() / "experiment").glob("*.yaml"))
SHAPES = {"omniglot": (1, 28, 28), "miniimagenet": (3, 84, 84), "features": (64,)}


@dataclass(frozen=True)
class Shaped:
    """Stands in for a data set that is not there: its shape, and noise."""

    input_shape: tuple[int, ...]

    @property
    def kind(self) -> Kind:
        return "classification"

    def num_outputs(self, ways: int) -> int:
        return ways

    def check(self, split: Split, size: EpisodeSize) -> None:
        pass

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        parts = []
        for count in (size.shots, size.queries):
            labels = np.repeat(np.arange(size.ways), count)
            parts += [rng.random((len(labels), *self.input_shape), np.float32), labels]
        return DrawnTask(*parts)

    def num_classes(self, split: Split) -> int:
        return 64

    def draw_batch(self, split: Split, num_examples: int, rng: np.random.Generator) -> DrawnBatch:
        x = rng.random((num_examples, *self.input_shape), np.float32)
        return DrawnBatch(x, rng.integers(64, size=num_examples))

    def preprocess(self, x: Tensor) -> Tensor:
        return x.to(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_method_needs_no_more_than_its_name_and_a_task(algorithm: str) -> None:
    overrides = [f"algorithm={algorithm}", "task=glyphs", "run_dir=unused"]
    assert prepare(run_config(compose("train", overrides))).config.algorithm.name == algorithm


def flattened(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in group.items():
        inner = isinstance(value, Mapping)
        found |= flattened(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_method_is_the_same_on_the_command_line_and_from_python(algorithm: str) -> None:
    """`algorithm=` sets the options of the entry's factory, and what its settings say."""
    entry = ALGORITHMS[algorithm]
    task = ["task=glyphs", "run_dir=unused"]  # the sinusoid has settings of its own for some keys
    composed = compose("train", [f"algorithm={algorithm}", *task])
    assert composed["algorithm"] == {"name": algorithm, **default_options(entry.make)}
    assert composed["gradient"]["name"] == entry.gradient
    settings = {"algorithm": "maml", "gradient": "exact", **entry.settings}
    plain = compose("train", [*task, *(f"{key}={value}" for key, value in settings.items())])
    for group in ("algorithm", "gradient"):
        del plain[group], composed[group]
    assert flattened(composed) == flattened(plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_together(name: str) -> None:
    config = run_config(compose("train", [f"experiment={name}", "run_dir=unused"]))
    task = config.task.source.name
    assert name.startswith(task)
    source = Shaped(SHAPES[task]) if task in SHAPES else make_source(config)
    run = prepare(config, source=source)
    assert run.work.layout.size > 0
    ways = f"{config.task.evaluation.ways}w{config.task.evaluation.shots}s"
    assert task == "sinusoid" or ways in name
    assert name.endswith(f"_{config.algorithm.name}") or task == "sinusoid"


def settings_of(preset: str, group: str) -> dict[str, Any]:
    found: dict[str, Any] = compose("train", [f"experiment={preset}", "run_dir=unused"])[group]
    return found


ROTATIONS = {
    **dict.fromkeys(("maml", "fomaml", "anil", "imaml"), ("per_task", None)),
    "maml_pp": ("per_task", "none"),
    "reptile": ("classes", "none"),
    "protonet": ("classes", None),
}


@pytest.mark.slow
@pytest.mark.parametrize("ways", [5, 20])
@pytest.mark.parametrize("method", ROTATIONS)
def test_omniglot_presets_turn_characters_as_their_code_does(method: str, ways: int) -> None:
    task = settings_of(f"omniglot_{ways}w1s_{method}", "task")
    assert (task["rotations"], task["eval_rotations"]) == ROTATIONS[method]


def test_the_outer_rate_of_maml_pp_falls_by_epochs_of_its_code() -> None:
    config = run_config(compose("train", ["experiment=omniglot_5w1s_maml_pp", "run_dir=unused"]))
    rates = [learning_rate(config.outer, step, config.steps) for step in (0, 499, 500, 49_999)]
    assert rates[0] == rates[1] == 1e-3 > rates[2]
    last = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * 0.99)) / 2
    assert rates[3] == pytest.approx(last)
    assert config.outer.clip_value is None


@pytest.mark.parametrize("method", ["maml", "fomaml"])
def test_mamls_bound_is_that_of_a_loss_summed_over_the_query_images(method: str) -> None:
    config = run_config(
        compose("train", [f"experiment=miniimagenet_5w1s_{method}", "run_dir=unused"])
    )
    size = config.task.training
    assert config.outer.clip_value == pytest.approx(10 / (size.ways * size.queries), rel=0.01)


def test_a_preset_says_what_it_reproduces() -> None:
    for name in PRESETS:
        lines = (config_dir() / "experiment" / f"{name}.yaml").read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert lines[1].startswith("# ")
        assert max(map(len, lines)) <= 100
