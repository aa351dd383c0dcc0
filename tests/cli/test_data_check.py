"""`dmeta data check`: what is in a data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmeta.cli import main
from tests.tasks.conftest import write_pictures


def check(*words: str) -> int:
    try:
        main.main(["data", "check", *words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DMETA_CACHE", str(tmp_path / "cache"))


def test_it_counts_classes_and_says_which_tasks_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"train/a\x1b[1m": 4, "train/b": 3, "test/c": 9, "test/d": 7}
    root = write_pictures(tmp_path / "set", counts)
    words = ["task=image_folder", f"task.root={root}", "task.size=8", "task.cache=false"]
    assert check(*words, "task.ways=2", "task.shots=2", "task.queries=3") == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in (
        "train 2 7 3 to 4 b/rot000",
        "val 0 0",
        "test 2 16 7 to 9 d/rot000",
        "no example is there twice",
        "test: 2-way 2-shot tasks with 3 queries a class can be drawn",
        "wrote tasks.png",
    ):
        assert line in lines
    assert "train: no 2-way 2-shot tasks" in out
    assert "<= 3 (class 'b'), got 5" in out
    assert "\x1b" not in out
    with Image.open(tmp_path / "tasks.png") as image:
        assert np.asarray(image).std() > 10
    assert check(*words, "task.ways=2", "task.sampler=at_most", "out=any.png") == 0
    assert "train: tasks of at most 2 ways, drawn by sampler at_most, can be drawn" in capsys.readouterr().out  # noqa: E501  # fmt: skip
    assert check(*words, "task.ways=3", "out=none.png") == 0  # of no split
    assert not (tmp_path / "none.png").exists()


def test_examples_that_are_there_twice_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "features.npz"
    features = np.arange(36, dtype=np.float32).reshape(12, 3)
    features[0] = features[5] = features[11]
    labels = np.repeat([0, 1, 2], 4)
    splits = np.array(["train", "val", "test"])
    np.savez(file, features=features, labels=labels, class_names=np.array(["a", "b", "c"]), class_splits=splits)  # noqa: E501  # fmt: skip
    assert check("task=features", f"task.file={file}", "task.ways=1", "task.queries=1") == 0
    out = capsys.readouterr().out
    assert "1 examples are there more than once: 1 of them in several classes, 1 in sev" in out
    assert "a (train), b (val), c (test)" in out
    assert "wrote" not in out  # they are no pictures
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert check("task=sinusoid") == 0
    assert "train: 1-way 10-shot tasks with 10 queries a class can be" in capsys.readouterr().out


def test_wrong_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["task=image_folder"], "task.root must be the folder or zip with the pictures"),
        (["task=image_folder", "task.rot=x"], "unknown key 'task.rot'"),
        (["task=image_folders"], "image_folder"),
    ):
        assert check(*words) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["data", "chek", "task=glyphs"])
    assert "dmeta data takes check task=..., or root=FOLDER, got 'chek'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))
