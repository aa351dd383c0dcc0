"""Runs that learn from the weights of other runs (`algorithm.teachers`)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dmeta
from dmeta.algorithms.base_classes import BIAS, WEIGHT
from dmeta.algorithms.url import TEACHER
from dmeta.runs.checkpoint import open_checkpoints, read_checkpoint, steps_in
from dmeta.training.setup import prepare
from tests.conftest import TINY, tiny_config

SETS: list[dict[str, Any]] = [
    {"name": "glyphs", "num_classes": 20, "drawings": 8},
    {"name": "glyphs", "num_classes": 30, "drawings": 8, "seed": 1},
]
COMMON: dict[str, Any] = {
    "algorithm": "url", "task": "mixture", "task.ways": 3, "task.shots": 2, "task.queries": 3,
    "task.train_examples": 6, "model": "conv4_strided", "model.filters": 4, "outer": "adamw",
    "outer.lr": 0.01, "outer.weight_decay": 0.1, "eval.every": 0, "device": "cpu",
}  # fmt: skip


def settings(run_dir: Path, **changes: Any) -> dict[str, Any]:
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return {**TINY, **COMMON, "task.sources": SETS, "run_dir": str(run_dir), **changes}


def config(run_dir: Path, **changes: Any) -> Any:
    given = {key.replace(".", "__"): v for key, v in settings(run_dir, **changes).items()}
    return tiny_config(given.pop("run_dir"), **given)


def weights(run_dir: Path, step: int | None = None) -> dict[str, Tensor]:
    storage = open_checkpoints(run_dir, None)
    return read_checkpoint(storage, steps_in(storage)[-1] if step is None else step).meta_params()


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("teachers")
    for place, of in enumerate(SETS):
        own = {"algorithm": ("url", "baseline")[place], "steps": 2}
        dmeta.train(settings(folder / str(place), task__sources=[of], **own))
    return [str(folder / str(place)) for place in range(len(SETS))]


@pytest.fixture(scope="module")
def run(teachers: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("student") / "run"
    return dmeta.train(settings(folder, algorithm__teachers=teachers))


def test_the_teachers_are_as_they_were_after_training(teachers: list[str], run: Any) -> None:
    given = [weights(Path(each)) for each in teachers]
    trained = weights(Path(run.run_dir))
    begun = prepare(config(Path("unused"), algorithm__teachers=teachers)).outer
    first = begun.layout.unflatten(torch.from_numpy(begun.initial))
    for name, value in trained.items():
        assert torch.equal(value, first[name]) == name.startswith(TEACHER), name
    for name in given[0]:
        both = [each[name] for each in given]
        joined = torch.cat(both) if name in (WEIGHT, BIAS) else torch.stack(both)
        assert torch.equal(trained[TEACHER + name], joined)


def test_a_run_resumed_has_the_same_bits(teachers: list[str], run: Any, tmp_path: Path) -> None:
    parts = settings(tmp_path / "parts", algorithm__teachers=teachers, steps=3)
    dmeta.train(parts)
    moved = [str(tmp_path / str(place)) for place in range(len(teachers))]
    for old, new in zip(teachers, moved, strict=True):
        shutil.copytree(old, new)
    again = {**parts, "steps": TINY["steps"], "resume": True, "algorithm.teachers": moved}
    assert dmeta.train(again).meta_params_sha256 == run.meta_params_sha256


def test_a_trained_run_needs_no_teachers(
    teachers: list[str], run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "alone"
    shutil.copytree(run.run_dir, copy)

    def nothing(*_: Any) -> Any:
        raise AssertionError("a teacher is read")

    monkeypatch.setattr("dmeta.training.teachers.read_run", nothing)
    evaluated = dmeta.evaluate(copy, num_tasks=TINY["eval.num_tasks"])
    assert evaluated.value == run.test.value
    alone = dmeta.evaluate(copy, num_tasks=4, task={"sources": SETS[1:], "ways": 4})
    assert 0 <= alone.value <= 1
    learner = dmeta.load(copy)
    adapted = learner.adapt(torch.rand(4, 1, 28, 28), ["a", "b", "c", "d"])
    assert adapted.predict(torch.rand(3, 1, 28, 28)).shape == (3, 4)
    with pytest.raises(AssertionError, match="a teacher is read"):
        prepare(config(tmp_path / "new", algorithm__teachers=teachers))


def test_teachers_change_what_is_learned(run: Any, tmp_path: Path) -> None:
    alone = dmeta.train(settings(tmp_path / "run"))
    learned = weights(Path(run.run_dir))
    assert all(not torch.equal(p, learned[name]) for name, p in weights(tmp_path / "run").items())
    assert alone.meta_params_sha256 != run.meta_params_sha256


def test_the_digest_not_the_place_is_what_a_run_is_of(teachers: list[str], tmp_path: Path) -> None:
    shutil.copytree(teachers[0], tmp_path / "moved")
    moved = [str(tmp_path / "moved"), teachers[1]]
    one, two = (prepare(config(tmp_path, algorithm__teachers=each)) for each in (teachers, moved))
    assert one.config.algorithm.options["teachers_sha256"]
    assert one.config.fingerprint() == two.config.fingerprint()
    assert one.config.fingerprint() != prepare(config(tmp_path)).config.fingerprint()


def test_a_teacher_of_other_settings_is_refused(teachers: list[str], tmp_path: Path) -> None:
    """Weights of the same shapes may be those of another network."""
    shutil.copytree(teachers[0], tmp_path / "moved")
    moved = [str(tmp_path / "moved"), teachers[1]]
    path = tmp_path / "moved" / "config.json"
    settings_of = json.loads(path.read_text())
    settings_of["settings"]["model"]["filters"] = 8
    path.write_text(json.dumps(settings_of))
    with pytest.raises(ValueError, match=r"got .*moved of another \(different: model\.filters\)"):
        prepare(config(tmp_path, algorithm__teachers=moved))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm__teachers": ["0", "1"], "model__filters": 5}, r"\(different: model\.filters"),
        ({"algorithm__teachers": ["1", "0"]}, r"got .*1 \(base_classes/weight \[19, .*\[13, "),
        ({"algorithm__teachers": ["0"]}, "one run for each of 2 data sets, or none, got 1"),
        ({"algorithm__teachers": ["0", "2"]}, r"algorithm\.teachers must be the folder of a run,"),
        (
            {"algorithm__teachers": ["0", "1"], "algorithm__teachers_sha256": "0" * 64},
            r"algorithm\.teachers must be the runs that this one began with",
        ),
    ],
)
def test_teachers_that_do_not_fit_are_refused(
    teachers: list[str], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = Path(teachers[0]).parent
    changes["algorithm__teachers"] = [str(folder / n) for n in changes["algorithm__teachers"]]
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path, **changes))


@pytest.mark.slow
def test_workers_of_ray_compute_the_same_bits(
    teachers: list[str], run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{root}:{os.environ.get('PYTHONPATH', '')}")
    given = settings(tmp_path / "run", algorithm__teachers=teachers, runtime="ray")
    found = dmeta.train({**given, "runtime.num_workers": 2, "runtime.cpus_per_worker": 0.5})
    assert found.meta_params_sha256 == run.meta_params_sha256
