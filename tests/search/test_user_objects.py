"""Searches of what dmeta does not come with: own objects, and plug-ins of other packages."""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import dmeta
from dmeta.algorithms.maml import Maml
from dmeta.search import Choice, Space
from dmeta.search.user_objects import Own
from dmeta.tasks.source import DrawnTask, EpisodeSize, Split, TaskSource
from tests.plugin_package import install
from tests.search.searches import results_of, table

# Tune's loggers leave the files of a search that is stopped to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SETTINGS = {
    "steps": 2,
    "meta_batch_size": 4,
    "eval.every": 2,
    "eval.val_tasks": 4,
    "eval.num_tasks": 4,
    "compute.block_size": 2,
    "device": "cpu",
    "search": "grid",
}


CHOICE = "choice(0.5,0.9)"


class Parts(NamedTuple):
    """Arguments of `dmeta.train` and `dmeta.tune`."""

    model: nn.Module
    source: TaskSource
    algorithm: Any
    loss: Any


def parts(steepest: float = 2.0) -> Parts:
    """Objects of classes that no other process can import, as those of a script or a notebook."""

    @dataclass(frozen=True)
    class Lines:
        guard: Any = None
        kind = "regression"
        input_shape = (1,)

        def num_outputs(self, ways: int) -> int:
            return 1

        def check(self, split: Split, size: EpisodeSize) -> None:
            pass

        def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
            x = rng.uniform(-1, 1, (size.shots + size.queries, 1)).astype(np.float32)
            y = (rng.uniform(-steepest, steepest) * x).astype(np.float32)
            return DrawnTask(x[: size.shots], y[: size.shots], x[size.shots :], y[size.shots :])

        def preprocess(self, x: torch.Tensor) -> torch.Tensor:
            return x

    @dataclass(frozen=True)
    class Mine(Maml):
        pass

    def distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (prediction - target).abs().mean()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))
    return Parts(model, Lines(), Mine, distance)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_own_objects_are_searched_with_and_the_best_settings_train_with_them(
    tmp_path: Path,
) -> None:
    own = parts()._asdict()
    run_dir = tmp_path / "search"
    where = {"run_dir": str(run_dir)}
    results = dmeta.tune({**SETTINGS, **where, "outer.lr": "choice(0.001,0.1)"}, **own)
    assert [result.error for result in results] == [None, None]
    found = results_of(run_dir)
    assert found["settings"]["task"]["name"] == "Lines"
    again = dmeta.train(
        [f"experiment={run_dir / 'best.yaml'}", "runtime=local", f"run_dir={tmp_path / 'run'}"],
        **own,
    )
    assert again.test.value == found["test"]["evaluation"]["transductive"]["mean"][-1]
    assert "source=Lines" in (run_dir / "best.yaml").read_text()
    with pytest.raises(ValueError, match=r"begun with, got .* of model=.*source=Lines.* and none"):
        dmeta.tune({**where, "resume": True})
    assert len(dmeta.tune({**where, "resume": True}, **own)) == 2


def test_an_object_that_can_not_be_sent_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    own = parts()
    locked = type(own.source)(threading.Lock())
    settings = {**SETTINGS, "run_dir": str(tmp_path / "search")}
    words = "source must be picklable, .* got Lines, .*cannot pickle '_thread.lock'"
    with pytest.raises(ValueError, match=words):
        dmeta.tune({**settings, "outer.lr": "choice(0.001,0.1)"}, source=locked)
    settings.pop("search")
    with pytest.raises(ValueError, match=words):
        dmeta.train(settings, source=locked)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("cluster")
def test_an_object_of_a_module_that_trials_lack_is_refused_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def away(p, t):\n    return (p - t).abs().mean()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    away = importlib.import_module("only_here").away
    settings = {**SETTINGS, "run_dir": str(tmp_path / "search"), "outer.lr": "choice(0.001,0.1)"}
    with pytest.raises(ValueError, match=r"loss must be .*, got away, .*No module named 'only_h"):
        dmeta.tune(settings, loss=away)
    assert not (tmp_path / "search" / "trials").exists()


@pytest.mark.parametrize(
    ("key", "argument"),
    [
        ("algorithm.inner_lr", "algorithm"),
        ("algorithm", "algorithm"),
        ("model.hidden", "model"),
        ("loss", "loss"),
        ("task.amplitude_max", "source"),
    ],
)
def test_a_key_that_an_own_object_takes_no_notice_of_is_not_searched(
    key: str, argument: str, tmp_path: Path
) -> None:
    own = Own(*parts())
    with pytest.raises(
        ValueError, match=rf"{key} must have one value together with {argument}=\.\.\."
    ):
        own.check(Space({key: Choice((1, 2))}))
    own.check(Space({"task.train_shots": Choice((1, 2)), "outer.lr": Choice((1, 2))}))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_options_of_a_plug_in_are_searched_and_the_best_settings_train(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, monkeypatch)
    run_dir = tmp_path / "search"
    settings = {**SETTINGS, "task": "slopes", "run_dir": str(run_dir)}
    settings |= {"algorithm": "choice(damped-maml,maml)", "algorithm.damping": CHOICE}
    dmeta.tune(settings)
    rows = table(run_dir)
    assert {row["status"] for row in rows} == {"finished"}
    tried = {(row["algorithm"], row["algorithm.damping"]) for row in rows}
    assert tried == {("damped-maml", "0.5"), ("damped-maml", "0.9"), ("maml", "")}
    preset = run_dir / "best.yaml"
    texts = [f"experiment={preset}", "runtime=local", f"run_dir={tmp_path / 'run'}"]
    test = results_of(run_dir)["test"]["evaluation"]
    assert dmeta.train(texts).test.value == test["transductive"]["mean"][-1]
    with pytest.raises(ValueError, match=r"'algorithm\.dampng' .*mean 'algorithm\.damping'"):
        dmeta.tune({**settings, "algorithm": "damped-maml", "algorithm.dampng": CHOICE})
