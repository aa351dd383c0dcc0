"""A run that is trained on one task source and tested on others, too (``eval.task``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmeta
from dmeta.cli import main
from dmeta.formatting import digits
from dmeta.training.results import Result
from tests.conftest import TINY
from tests.runs.status_lines import told

GLYPHS = TINY | {
    "task": "glyphs", "task.num_classes": 100, "task.drawings": 8, "task.queries": 2,
    "task.ways": 3, "model.filters": 4, "algorithm": "protonet", "steps": 2, "eval.every": 1,
}  # fmt: skip
OTHERS = {"six": {"ways": 6, "split_ratio": [0, 0, 1]}, "far": {"name": "glyphs", "seed": 7}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs go; has six classes of six images in one file."""
    folder = tmp_path_factory.mktemp("cross")
    images = np.random.default_rng(0).integers(0, 256, (36, 28, 28), dtype=np.uint8)
    np.savez(folder / "six.npz", images=images, labels=np.arange(36) % 6)
    return folder


def others(folder: Path) -> dict[str, dict[str, Any]]:
    return OTHERS | {"six": OTHERS["six"] | {"name": "arrays", "file": str(folder / "six.npz")}}


def train(folder: Path, name: str, **changes: Any) -> Result:
    given = {"eval.task": others(folder), "run_dir": str(folder / name)}
    return dmeta.train(GLYPHS | given | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.fixture(scope="module")
def whole(folder: Path) -> Result:
    return train(folder, "whole")


def test_each_source_is_evaluated_as_dmeta_evaluate_does(folder: Path, whole: Result) -> None:
    assert list(whole.other_tests) == ["six", "far"]
    for name, task in others(folder).items():
        assert whole.other_tests[name] == dmeta.evaluate(whole.run_dir, num_tasks=6, task=task)
    assert whole.test == dmeta.evaluate(whole.run_dir, num_tasks=6)
    assert len({each.value for each in (whole.test, *whole.other_tests.values())}) == 3


def test_other_tasks_change_nothing_else(folder: Path, whole: Result) -> None:
    alone = train(folder, "alone", eval__task=None)
    assert alone.meta_params_sha256 == whole.meta_params_sha256
    assert alone.test == whole.test
    assert (alone.other_tests, alone.summary["other_tasks"]) == ({}, {})


def test_results_say_what_each_number_is_of(folder: Path, whole: Result) -> None:
    written = json.loads((folder / "whole/results.json").read_text())
    assert written == json.loads(json.dumps(whole.summary))
    assert written["test"]["split"] == "test"
    six = written["other_tasks"]["six"]
    tasks = six["tasks"]
    assert (tasks["name"], tasks["ways"], tasks["shots"]) == ("arrays", 6, 1)
    assert (tasks["file"], len(tasks["sha256"])) == (str(folder / "six.npz"), 64)
    assert (six["test"]["split"], six["test"]["num_tasks"]) == ("test", 6)
    assert six["test"]["transductive"]["mean"] == [whole.other_tests["six"].value]
    settings = json.loads((folder / "whole/config.json").read_text())["settings"]
    assert settings["eval"]["task"] == others(folder)


def test_status_shows_every_test(folder: Path, whole: Result) -> None:
    lines = [line for line in told(folder / "whole").splitlines() if line.startswith("test ")]
    assert [line.rpartition(" ")[2] for line in lines] == ["glyphs)", "six)", "far)"]
    value = whole.other_tests["six"].value
    assert lines[1].startswith(f"test       accuracy {100 * value:.1f}±")
    assert lines[1].endswith("(95% confidence, 6 test tasks of six)")


def test_a_finished_run_is_tested_on_other_sources_later(
    folder: Path, whole: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    train(folder, "later", eval__task=None)
    words = ["train", f"run_dir={folder / 'later'}", "resume=true", "+eval.task.far.name=glyphs"]
    main.main([*words, "+eval.task.far.seed=7"])
    written = json.loads((folder / "later/results.json").read_text())
    at_once = json.loads((folder / "whole/results.json").read_text())
    assert written["other_tasks"]["far"] == at_once["other_tasks"]["far"]
    assert written["training"]["steps"] == 2
    shown = capsys.readouterr().out
    assert "evaluating on 6 test tasks of far" in shown
    assert "far (glyphs)" in shown
    assert "6 test tasks: 3 ways, 1 shot" in shown


def test_a_run_that_is_resumed_keeps_its_other_tasks(folder: Path, whole: Result) -> None:
    train(folder, "longer", steps=1)
    resumed = dmeta.train({"run_dir": str(folder / "longer"), "resume": True, "steps": 2})
    assert resumed.other_tests == whole.other_tests


@pytest.mark.parametrize("checkpoint", ["best", "ensemble"])
def test_the_model_is_the_one_that_is_tested_on_the_run_s_own_tasks(
    checkpoint: str, folder: Path
) -> None:
    result = train(folder, checkpoint, eval__checkpoint=checkpoint, outer__lr=0.1)
    chosen: Any = {"checkpoint": checkpoint, "num_tasks": 6}
    for name, task in others(folder).items():
        assert result.other_tests[name] == dmeta.evaluate(result.run_dir, task=task, **chosen)
        assert result.other_tests[name].num_models == result.test.num_models


@pytest.mark.slow
def test_workers_of_ray_give_the_same_bits(folder: Path, whole: Result) -> None:
    ray = {"runtime": "ray", "runtime.num_workers": 2}
    given = GLYPHS | {"eval.task": others(folder), "run_dir": str(folder / "ray")}
    spread = dmeta.train(given | ray)
    assert spread.summary["runtime"]["num_workers"] == 2
    assert spread.meta_params_sha256 == whole.meta_params_sha256
    assert (spread.test, spread.other_tests) == (whole.test, whole.other_tests)


def test_the_joint_baseline_and_all_metrics_are_of_other_tasks_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{key}={value}" for key, value in (TINY | {"joint_baseline": True}).items()]
    words += ["eval.task={two:{name:sinusoid,shots:2}}", "eval.metrics=[mse,r2]"]
    main.main(["train", *words, "algorithm.eval_inner_steps=2", f"run_dir={tmp_path / 'run'}"])
    written = json.loads((tmp_path / "run/results.json").read_text())
    baseline = written["joint_baseline"]["other_tasks"]["two"]["test"]
    assert baseline["num_tasks"] == 6
    assert baseline != written["other_tasks"]["two"]["test"]
    assert baseline != written["joint_baseline"]["test"]
    table = capsys.readouterr().out.partition("other tasks")[2]
    shown = " ".join(table.replace("│", " ").split())
    mean = written["other_tasks"]["two"]["test"]["transductive"]["mean"][-1]
    assert f"two (sinusoid) mse {digits(mean, 3)}" in shown
    assert " r2 " in shown


REFUSED = [
    ("eval.task=glyfs", "eval.task.glyfs.name: task must be one of"),
    ("eval.task={o:{name:glyphs,shotts:3}}", "unknown key 'eval.task.o.shotts'"),
    ("eval.task={o:{name:glyphs,shots:a}}", "eval.task.o.shots must be"),
    ("eval.task={o:{name:arrays,file:/nowhere.npz}}", "no file; correct it; here task.* is eval."),
    ("eval.task=omniglot", "Omniglot must be complete to be read"),
    ("eval.task=sinusoid", "eval.task.sinusoid must have tasks of kind classification"),
    ("eval.task=7", "eval.task must be a text or a list"),
]


@pytest.mark.parametrize(("word", "message"), REFUSED)
def test_other_tasks_that_cannot_be_are_refused_before_anything_is_written(
    word: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DMETA_DATA", str(tmp_path / "no data"))
    words = [f"{key}={value}" for key, value in GLYPHS.items()]
    with pytest.raises(SystemExit) as stop:
        main.main(["train", *words, word, f"run_dir={tmp_path / 'run'}"])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
