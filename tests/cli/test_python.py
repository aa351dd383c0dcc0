"""dmeta from Python: named parts, own parts, and a trained learner on data of one's own."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dmeta
from dmeta.algorithms.maml import Maml
from dmeta.cli.main import main
from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.source import DrawnTask, EpisodeSize, Split
from tests.conftest import TINY


@dataclass(frozen=True)
class Lines:
    """An own task source: y = slope * x."""

    slope_max: float = 2.0
    kind = "regression"
    input_shape = (1,)

    def num_outputs(self, ways: int) -> int:
        return 1

    def check(self, split: Split, size: EpisodeSize) -> None:
        pass

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        slope = rng.uniform(-self.slope_max, self.slope_max)
        x = rng.uniform(-1, 1, (size.shots + size.queries, 1)).astype(np.float32)
        y = (slope * x).astype(np.float32)
        return DrawnTask(x[: size.shots], y[: size.shots], x[size.shots :], y[size.shots :])

    def preprocess(self, x: torch.Tensor) -> torch.Tensor:
        return x


GLYPHS = make_glyphs(num_classes=30, drawings=8)


class Centred:
    """An own task source: images as bytes, to floats around 0."""

    kind = "classification"
    input_shape = (1, 28, 28)

    def num_outputs(self, ways: int) -> int:
        return ways

    def check(self, split: Split, size: EpisodeSize) -> None:
        GLYPHS.check(split, size)

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        return GLYPHS.draw(split, size, rng)

    def preprocess(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(-3) / 255 - 0.5


class Own(nn.Module):
    """An own model, with a buffer and a batch-norm that tracks running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.tensor(1.0))
        self.first = nn.Linear(1, 8)
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.tanh(self.norm(self.first(x * self.scale))))
        return out


def settings(run_dir: Path, **changes: Any) -> dict[str, Any]:
    return TINY | {"run_dir": str(run_dir)} | changes


@pytest.mark.slow
def test_train_load_evaluate(tmp_path: Path) -> None:
    result = dmeta.train(settings(tmp_path / "run"))
    again = dmeta.evaluate(result.run_dir, num_tasks=6)
    assert again == result.test
    learner = dmeta.load(result.run_dir)
    x = np.linspace(-1, 1, 10, dtype=np.float32)[:, None]
    before = learner.adapt(x, np.sin(x), inner_steps=0).predict(x)
    after = learner.adapt(x, np.sin(x)).predict(x)
    assert isinstance(after, np.ndarray)
    assert np.square(after - np.sin(x)).mean() < np.square(before - np.sin(x)).mean()
    assert isinstance(learner.adapt(x, np.sin(x)).predict(torch.from_numpy(x)), torch.Tensor)


@pytest.mark.slow
def test_overrides_may_be_the_command_lines_own(tmp_path: Path) -> None:
    texts = ["runtime=local", "steps=1", "eval.num_tasks=2", "joint_baseline=false"]
    one = dmeta.train([*texts, f"run_dir={tmp_path / 'a'}"])
    same = {"runtime": "local", "steps": 1, "eval.num_tasks": 2, "joint_baseline": False}
    other = dmeta.train(same | {"run_dir": str(tmp_path / "b")})
    assert one.meta_params_sha256 == other.meta_params_sha256


@pytest.mark.slow
def test_own_model_source_and_algorithm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Own()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = dmeta.train(settings(tmp_path / "run"), model=model, source=Lines(), algorithm=Maml)
    assert result.test.metric == "mse"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "the user's module is left as it was"
    learner = dmeta.load(tmp_path / "run", model=model, algorithm=Maml)
    x = torch.linspace(-1, 1, 6)[:, None]
    adapted = learner.adapt(x, 2 * x)
    alone = torch.cat([adapted.predict(row[None]) for row in x])
    torch.testing.assert_close(alone, adapted.predict(x))
    assert not torch.allclose(adapted.predict(x[:3], transductive=True), adapted.predict(x)[:3])


IMAGES = {"steps": 1, "eval.every": 0, "eval.num_tasks": 2, "model.filters": 4}


@pytest.mark.slow
def test_a_loaded_learner_prepares_images_as_its_task_did(tmp_path: Path) -> None:
    run = settings(tmp_path / "run", task="glyphs", **IMAGES)
    learner = dmeta.load(dmeta.train(run).run_dir)
    stored = GLYPHS.class_examples("test", 0)[:5]
    scaled = GLYPHS.preprocess(torch.from_numpy(stored)).numpy()
    adapted = learner.adapt(stored, list("abcde"))
    np.testing.assert_array_equal(
        adapted.predict(stored), learner.adapt(scaled, range(5)).predict(scaled)
    )
    with pytest.raises(ValueError, match="at most 5 classes, got 6"):
        learner.adapt(GLYPHS.class_examples("test", 0)[:6], range(6))


@pytest.mark.slow
def test_an_own_sources_preprocess_is_applied_by_whoever_gives_the_source(tmp_path: Path) -> None:
    run = settings(
        tmp_path / "run",
        **IMAGES,
        **{"task.ways": 5, "task.shots": 1, "task.queries": 1},
    )
    del run["joint_baseline"]
    result = dmeta.train(run, source=Centred())
    assert result.summary["settings"]["model"]["name"] == "conv4"
    assert result.joint_baseline is None
    stored = GLYPHS.class_examples("test", 0)[:5]
    network_input = Centred().preprocess(torch.from_numpy(stored)).numpy()
    learner = dmeta.load(tmp_path / "run", source=Centred())
    seen = dmeta.load(tmp_path / "run")
    np.testing.assert_array_equal(
        learner.adapt(stored, range(5)).predict(stored),
        seen.adapt(network_input, range(5)).predict(network_input),
    )
    with pytest.raises(ValueError, match="load the learner with dmeta"):
        seen.adapt(stored[:, None], range(5))


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_loaded(tmp_path: Path) -> None:
    dmeta.train(settings(tmp_path / "run", steps=1))
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    for key in ("input_form", "input_dtype", "target_shape"):
        del content["shapes"][key]
    path.write_text(json.dumps(content))
    x = np.linspace(-1, 1, 4)[:, None]
    assert dmeta.load(tmp_path / "run").adapt(x, x).predict(x).shape == (4, 1)


def median_away(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """An own loss."""
    return (prediction - target).abs().clamp(max=1.0).mean()


@pytest.mark.slow
def test_an_own_loss_or_a_named_one_decides_the_result(tmp_path: Path) -> None:
    hashes = {dmeta.train(settings(tmp_path / "mse")).meta_params_sha256}
    for name in ("l1", "huber"):
        hashes.add(dmeta.train(settings(tmp_path / name, loss=name)).meta_params_sha256)
    own = dmeta.train(settings(tmp_path / "own"), loss=median_away)
    assert own.summary["settings"]["loss"] == "median_away"
    assert len(hashes | {own.meta_params_sha256}) == 4
    again = dmeta.evaluate(own.run_dir, num_tasks=6, loss=median_away)
    assert again == own.test
    with pytest.raises(
        ValueError, match=r"a custom loss \(median_away\).* call dmeta\.load\(.*loss="
    ):
        dmeta.load(own.run_dir)
    assert dmeta.load(own.run_dir, loss=median_away).algorithm.loss is median_away


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda learner: learner.adapt(np.zeros((3, 2)), np.zeros((3, 1))), "support_x must have"),
        (lambda learner: learner.adapt(np.zeros((0, 1)), np.zeros((0, 1))), "support_x must have"),
        (lambda learner: learner.adapt(np.zeros((3, 1)), np.zeros((2, 1))), "support_y must have"),
        (
            lambda learner: learner.adapt(np.zeros((3, 1)), np.zeros((3, 1))).predict(np.zeros(3)),
            "x must have shape",
        ),
    ],
)
def test_a_learner_refuses_what_does_not_fit(tmp_path: Path, call: Any, words: str) -> None:
    dmeta.train(settings(tmp_path / "run", steps=1))
    with pytest.raises(ValueError, match=words):
        call(dmeta.load(tmp_path / "run"))


def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must give 1 outputs"):
        dmeta.train(settings(tmp_path / "run"), model=nn.Linear(1, 3))
    with pytest.raises(ValueError, match="must take inputs of shape"):
        dmeta.train(settings(tmp_path / "run"), model=nn.Linear(2, 1))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained with a custom model, source, algorithm and loss."""
    run_dir = tmp_path_factory.mktemp("runs") / "own"
    dmeta.train(
        settings(run_dir, steps=2),
        model=Own(), source=Lines(), algorithm=Maml, loss=median_away,
    )  # fmt: skip
    return run_dir


TRAINED_WITH = (
    r"was trained with a custom model \(Own\) and a custom source \(Lines\) and a custom algorithm "
    r"\(Maml\) and a custom loss \(median_away\), which no settings can make; from Python, call "
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "call"),
    [
        ("evaluate", r"dmeta\.evaluate\('[^']+', model=..., source=..., .*loss=...\)"),
        ("replay step=0", r"dmeta\.replay\('[^']+', 0, model=..., .* loss=...\)"),
        ("train resume=true", r"dmeta\.train\(\{.run_dir.: '.+', .resume.: True\}, model=..., "),
    ],
)  # fmt: skip
def test_the_command_line_says_that_a_run_has_own_objects_and_how_to_pass_them(
    own_run: Path, command: str, call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *more = command.split()
    with pytest.raises(SystemExit) as stop:
        main([verb, f"run_dir={own_run}", *more])
    assert stop.value.code == 2
    assert re.search(TRAINED_WITH + call, capsys.readouterr().err.replace("\n", " "))


def test_only_the_own_objects_that_are_lacking_are_named(own_run: Path) -> None:
    with pytest.raises(
        ValueError, match=r"trained with a custom model \(Own\) and a custom algorithm"
    ):
        dmeta.embed(own_run, source=Lines())
    with pytest.raises(ValueError, match=r"trained with a custom source \(Lines\), which"):
        dmeta.evaluate(own_run, model=Own(), algorithm=Maml, loss=median_away)
    # An earlier version did not write which they were: then it shows by their names.
    config = json.loads((own_run / "config.json").read_text())
    assert config.pop("own") == ["model", "source", "algorithm", "loss"]
    older = own_run.parent / "older"
    shutil.copytree(own_run, older)
    (older / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"custom model .* custom source .* custom algorithm .* custom loss"
    ):
        dmeta.evaluate(older)


@pytest.mark.slow
def test_a_run_with_own_objects_is_resumed_with_them(own_run: Path, tmp_path: Path) -> None:
    shutil.copytree(own_run, tmp_path / "run")
    own: dict[str, Any] = {"model": Own(), "source": Lines(), "algorithm": Maml}
    more = {"run_dir": str(tmp_path / "run"), "resume": True, "steps": 3}
    result = dmeta.train(more, **own, loss=median_away)
    assert result.summary["training"]["steps"] == 3
