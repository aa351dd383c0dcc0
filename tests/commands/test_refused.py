"""Wrong input is refused in one message, before anything is started or written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra._internal.hydra import Hydra
from PIL import Image

import dmeta
from dmeta import cli
from dmeta.runtime import cluster
from dmeta.tasks.source import SPLITS
from dmeta.training.outer import OuterLoopFactory
from tests.commands.wrong_settings import WRONG
from tests.conftest import TINY


class Started(BaseException):
    """Something was started; no `except Exception` hides it."""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> None:
        raise Started

    # The first that a run of either kind does, once its settings are accepted: Ray is joined or
    # started, or the server is built in this process.
    monkeypatch.setattr(cluster, "connect", start)
    monkeypatch.setattr(OuterLoopFactory, "build", start)
    # Hydra composes every command line twice, first to see whether it is a sweep; none is.
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DMETA_DATA", str(tmp_path / "no-data"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["dmeta"])


def content(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder, and what the files hold."""
    paths = sorted(folder.rglob("*"))
    return {str(p): p.read_bytes() if p.is_file() else None for p in paths}


def refusal(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which `dmeta LINE` ends."""
    before = content(Path())
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(line))
    told = capsys.readouterr().err
    assert stop.value.code == 2, told
    assert len(re.findall(r"^dmeta: ", told, re.MULTILINE)) == 1
    assert "Traceback" not in told
    assert content(Path()) == before, "refused before anything is written"
    return told


@pytest.mark.parametrize(("line", "words"), WRONG, ids=lambda text: text[:60])
def test_wrong_settings_are_refused(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(words, refusal(line, capsys), re.DOTALL)


def test_the_table_has_enough_different_cases() -> None:
    assert len({line for line, _ in WRONG}) == len(WRONG) >= 100


@pytest.mark.parametrize("runtime", ["local", "ray"])
def test_right_settings_start_something(runtime: str) -> None:
    with pytest.raises(Started):
        cli.main(["train", f"runtime={runtime}", "runtime.plan=vmap", "joint_baseline=false"])


def write_mini(root: Path) -> Path:
    """miniImageNet's files: two classes a split, two images each."""
    folder = root / "mini-imagenet"
    (folder / "images").mkdir(parents=True)
    for split in SPLITS:
        rows = [f"{split}{i}.jpg,{split}{i % 2}" for i in range(4)]
        (folder / f"{split}.csv").write_text("\n".join(["filename,label", *rows]))
        for i in range(4):
            image = Image.fromarray(np.full((84, 84, 3), 40 * i, np.uint8))
            image.save(folder / "images" / f"{split}{i}.jpg")
    return folder


def zipped(archive: Path, names: Sequence[str]) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as out:
        for name in names:
            out.writestr(name, name * 100)
    return archive


def omniglot_zips(root: Path, characters: int) -> list[Path]:
    """Both parts, with so many characters each."""
    names = [f"A/character{c:02d}/0001_{d:02d}.png" for c in range(characters) for d in range(20)]
    parts = ("images_background", "images_evaluation")
    return [zipped(root / "omniglot" / f"{part}.zip", names) for part in parts]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


OMNIGLOT = {
    "no root": (lambda root: None, r"no images_background.*task.download=true"),
    "an empty root": (lambda root: root.mkdir(), r"no images_background.*task.root"),
    "a file for a root": (lambda root: root.touch(), r"no images_background.*task.root"),
    "no evaluation set": (
        lambda root: omniglot_zips(root, 1)[1].unlink(),
        r"no images_evaluation\[.zip\]",
    ),
    "too few characters": (
        lambda root: omniglot_zips(root, 3),
        r"3 of 964 characters in images_background",
    ),
    "a truncated zip": (lambda root: cut(omniglot_zips(root, 1)[0]), r"images_background.zip"),
    "an empty zip": (
        lambda root: omniglot_zips(root, 1)[0].write_bytes(b""),
        r"must be a readable zip file, got .*images_background.zip",
    ),
    "a page for a zip": (
        lambda root: omniglot_zips(root, 1)[1].write_text("<html>not found"),
        r"images_evaluation.zip .*delete it and download it again",
    ),
    "a folder for a zip": (
        lambda root: replace_by_folder(omniglot_zips(root, 1)[0]),
        r"0 of 964 characters in images_background",
    ),
    "a name that leads out of the zip": (
        lambda root: zipped(omniglot_zips(root, 1)[0], ["../A/character01/0001_01.png"]),
        r"names in a zip must stay inside it, got '../A",
    ),
}

MINI = {
    "no root": (shutil.rmtree, r"miniImageNet must be complete.*got nothing.*place train.csv"),
    "an empty folder": (
        lambda mini: (shutil.rmtree(mini), mini.mkdir()),
        r"3 files missing \(train.csv",
    ),
    "no val.csv": (lambda mini: (mini / "val.csv").unlink(), r"1 files missing \(val.csv\)"),
    "an empty csv": (lambda mini: (mini / "val.csv").write_text(""), r"val.csv"),
    "other columns": (
        lambda mini: change(mini / "train.csv", "filename,label", "file,class"),
        r"train.csv",
    ),
    "a csv that is no text": (
        lambda mini: (mini / "test.csv").write_bytes(b"\xff\xfe\x00"),
        r"test.csv",
    ),
    "a csv with too long a field": (
        lambda mini: (mini / "test.csv").write_text('filename,label\n"' + "x" * 200_000),
        r"test.csv",
    ),
    "a missing image": (
        lambda mini: (mini / "images" / "val2.jpg").unlink(),
        r"1 files missing \(val2.jpg\)",
    ),
    "a class in two splits": (
        lambda mini: change(mini / "test.csv", "test0.jpg,test0", "test0.jpg,val0"),
        r"the splits must be disjoint, got 'val0'",
    ),
    "an image twice": (
        lambda mini: change(mini / "test.csv", "test2.jpg", "test0.jpg"),
        r"must name each image once, got one of class 'test0'",
    ),
    "a corrupt image": (
        lambda mini: (mini / "images" / "val1.jpg").write_bytes(b"no image"),
        r"every file must be readable, got 'images/val1.jpg'",
    ),
    "half an image": (lambda mini: cut(mini / "images" / "test3.jpg"), r"got 'images/test3.jpg'"),
    "a folder for an image": (
        lambda mini: replace_by_folder(mini / "images" / "test3.jpg"),
        r"1 files missing \(test3.jpg\)",
    ),
    "a link to nowhere": (
        lambda mini: (
            (mini / "images" / "val0.jpg").unlink(),
            (mini / "images" / "val0.jpg").symlink_to("none"),
        ),
        r"'images/val0.jpg'",
    ),
    "a truncated zip": (
        lambda mini: cut(zipped(mini / "mini-imagenet.zip", ["train.csv"])),
        r"must be a readable zip file, got .*mini-imagenet.zip",
    ),
    "too few images": (lambda mini: None, r"shots \+ queries must be <= 2 .*lower task"),
}


@pytest.mark.parametrize("case", OMNIGLOT)
def test_a_bad_tree_of_omniglot_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = OMNIGLOT[case]
    damage(Path("root"))
    assert re.search(words, refusal("train task=omniglot task.root=root", capsys), re.DOTALL)


@pytest.mark.parametrize("case", MINI)
def test_a_bad_tree_of_miniimagenet_is_refused(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = MINI[case]
    damage(write_mini(Path("root")))
    line = "train task=miniimagenet task.root=root task.ways=2 task.queries=5 task.cache=false"
    assert re.search(words, refusal(line, capsys), re.DOTALL)


N, C = 24, 6
ARRAYS = {
    "features": np.arange(2.0 * N, dtype=np.float32).reshape(N, 2),
    "labels": np.arange(N) % C,
    "class_names": np.array([f"class{c}" for c in range(C)]),
    "class_splits": np.array(["train", "val", "test"] * 2),
}
FEATURES: dict[str, tuple[dict[str, Any], str]] = {
    "flat features": ({"features": np.ones(N)}, r"features must be floats \[N, D\]"),
    "features of no dimension": ({"features": np.ones((N, 0))}, r"features must be floats"),
    "whole numbers": ({"features": np.ones((N, 2), int)}, r"features must be floats.*got int64"),
    "NaN": ({"features": np.full((N, 2), np.nan)}, r"features must be finite, got NaN.*row 0"),
    "too few labels": ({"labels": np.arange(C)}, r"labels must be whole numbers \[24\]"),
    "broken labels": ({"labels": np.arange(N) % C / 2}, r"labels must be whole numbers"),
    "labels below 0": ({"labels": np.arange(N) % C - 1}, r"labels must be in 0..5, got -1..4"),
    "labels above": ({"labels": np.arange(N) % C + 1}, r"labels must be in 0..5, got 1..6"),
    "a class without rows": ({"labels": np.arange(N) % 5}, r"none of class 'class5'"),
    "a name twice": ({"class_names": np.array(["a"] * C)}, r"class_names must be texts .* alike"),
    "names that are numbers": ({"class_names": np.arange(C)}, r"class_names must be texts"),
    "an unknown split": ({"class_splits": np.array(["all"] * C)}, r"class_splits must say train"),
    "too few splits": ({"class_splits": np.array(["val"])}, r"class_splits must say"),
    "no test classes": (
        {"class_splits": np.array(["train", "train", "train", "val", "val", "train"])},
        r"ways must be <= 0 \(classes of split 'test'\)",
    ),
    "objects": ({"labels": np.array([object()] * N)}, r"an .npz of plain arrays"),
}


@pytest.mark.parametrize("case", FEATURES)
def test_wrong_arrays_of_features_are_refused(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, words = FEATURES[case]
    np.savez("x.npz", **(ARRAYS | changes))
    told = refusal("train task=features task.file=x.npz task.ways=2 task.queries=1", capsys)
    assert re.search(words, told, re.DOTALL)
    assert "x.npz" in told or "task.ways" in told


def save_one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, ARRAYS["features"])


NO_FEATURES = {
    "no file": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.touch(),
    "a text": lambda path: path.write_text("features"),
    "half a file": lambda path: (np.savez(path, **ARRAYS), cut(path)),
    "a missing array": lambda path: np.savez(path, features=ARRAYS["features"]),
    "a single array": save_one_array,
    "a zip of other things": lambda path: zipped(path, ["features", "labels"]),
}


@pytest.mark.parametrize("case", NO_FEATURES)
def test_what_is_no_file_of_features_is_refused(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    NO_FEATURES[case](Path("x.npz"))
    told = refusal("train task=features task.file=x.npz", capsys)
    assert re.search(r"x\.npz.*make one with `dmeta embed", told, re.DOTALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, and beside it another of a wider network."""
    folder = tmp_path_factory.mktemp("runs")
    for name, hidden in (("run", 8), ("wider", 9)):
        changes = {"steps": 2, "eval.every": 0, "model.hidden": hidden, "checkpoint.every": 0}
        dmeta.train(TINY | changes | {"run_dir": str(folder / name)})
    return folder


def checkpoint(run: Path) -> Path:
    """The folder of the run's only checkpoint."""
    return next((run / "checkpoints").glob("step-*"))


def edit(run: Path, *path: str, to: Any) -> None:
    """Set a value of the run's settings."""
    content = json.loads((run / "config.json").read_text())
    group = content
    for key in path[:-1]:
        group = group[key]
    group[path[-1]] = to
    (run / "config.json").write_text(json.dumps(content))


def take_wider(run: Path) -> None:
    shutil.rmtree(checkpoint(run))
    wider = checkpoint(run.parent / "wider")
    shutil.copytree(wider, run / "checkpoints" / wider.name)


RUN = {
    "no settings": (lambda run: (run / "config.json").unlink(), r"run_dir must hold a run"),
    "empty settings": (lambda run: (run / "config.json").write_text(""), r"config.json"),
    "half the settings": (lambda run: cut(run / "config.json"), r"config.json must be a run's"),
    "settings in a list": (lambda run: (run / "config.json").write_text("[]"), r"config.json"),
    "binary settings": (lambda run: (run / "config.json").write_bytes(b"\xff\0"), r"config.json"),
    "a folder for the settings": (
        lambda run: replace_by_folder(run / "config.json"),
        r"config.json must be a run's settings",
    ),
    "no group of settings": (
        lambda run: (run / "config.json").write_text('{"fingerprint": "", "shapes": {}}'),
        r"config.json must be a run's settings, got KeyError\('settings'\)",
    ),
    "a number for the settings": (
        lambda run: edit(run, "settings", to=5),
        r"config.json must be .*the settings must be a group, got 5.*restore it",
    ),
    "an unknown setting": (
        lambda run: edit(run, "settings", "stepz", to=5),
        r"config.json must be .*unknown key 'stepz' .*restore it",
    ),
    "an impossible setting": (
        lambda run: edit(run, "settings", "outer", "lr", to=-1),
        r"config.json must be .*outer.lr must be > 0",
    ),
    "a setting of another type": (
        lambda run: edit(run, "settings", "meta_batch_size", to="five"),
        r"config.json must be .*meta_batch_size must be a whole number",
    ),
    "a missing setting": (
        lambda run: edit(run, "settings", "algorithm", to={}),
        r"config.json must be .*algorithm.name must be",
    ),
    "shapes that are none": (
        lambda run: edit(run, "shapes", "input_shape", to="wide"),
        r"config.json must be .*shapes.input_shape must be a list",
    ),
    "no checkpoints": (
        lambda run: shutil.rmtree(run / "checkpoints"),
        r"run_dir must hold a checkpoint, got none",
    ),
    "an empty folder of checkpoints": (
        lambda run: shutil.rmtree(checkpoint(run)),
        r"run_dir must hold a checkpoint, got none",
    ),
    "half a state": (
        lambda run: cut(checkpoint(run) / "state.safetensors"),
        r"state.safetensors must have .* bytes",
    ),
    "an empty state": (
        lambda run: (checkpoint(run) / "state.safetensors").write_bytes(b""),
        r"state.safetensors must have .* got 0",
    ),
    "no state": (
        lambda run: (checkpoint(run) / "state.safetensors").unlink(),
        r"must have state.safetensors and checkpoint.json",
    ),
    "half a manifest": (
        lambda run: cut(checkpoint(run) / "checkpoint.json"),
        r"checkpoint.json must be a checkpoint's manifest",
    ),
    "an altered manifest": (
        lambda run: change(checkpoint(run) / "checkpoint.json", '"step": 2', '"step": 3'),
        r"checkpoint.json must be a checkpoint's manifest",
    ),
    "no manifest": (
        lambda run: (checkpoint(run) / "checkpoint.json").write_text("[]"),
        r"checkpoint.json must be a checkpoint's manifest",
    ),
}
"""What makes a run unusable for every verb that reads one."""


@pytest.mark.parametrize("verb", ["evaluate", "embed"])
@pytest.mark.parametrize("case", RUN)
def test_a_damaged_run_is_refused(
    case: str, verb: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = RUN[case]
    shutil.copytree(trained, "runs")
    damage(Path("runs/run"))
    assert re.search(words, refusal(f"{verb} run_dir=runs/run", capsys), re.DOTALL)


def whole(run: Path) -> None:
    """Nothing is wrong with it; the command line is."""


GO_ON = "train run_dir=runs/run resume=true "
OF_A_RUN = [
    (whole, "train run_dir=runs/run runtime.plan=vmap", r"run_dir must be new.*add resume=true"),
    (whole, GO_ON + "algorithm.inner_lr=0.5", r"\(different: algorithm.inner_lr\)"),
    (whole, GO_ON + "model.hidden=9", r"\(different: model.hidden\)"),
    (whole, GO_ON + "seed=1 outer.lr=1", r"\(different: outer.lr, seed\)"),
    (whole, GO_ON + "steps=1", r"steps must be >= 2, the steps that runs/run has done, got 1"),
    (whole, GO_ON + "steps=0", r"steps must be >= 1"),
    (whole, "train run_dir=runs/run/config.json resume=auto", r"run_dir must be a folder.*a file"),
    (whole, "evaluate run_dir=runs", r"run_dir must hold a run, got runs without config.json"),
    (whole, "evaluate run_dir=runs/run checkpoint=9", r"checkpoint must be last, best or one of 2"),
    (whole, "embed run_dir=runs/run checkpoint=9", r"checkpoint must be last, best or one of 2"),
    (whole, "embed run_dir=runs/run", r"must be a data set whose examples can be listed"),
    (whole, "embed run_dir=runs/run out=runs/run/config.json", r"out must be new"),
    (take_wider, "evaluate run_dir=runs/run", r"checkpoint must be of the model in config.json"),
    (take_wider, "embed run_dir=runs/run", r"without 1.weight, 1.bias, 3.weight"),
    (RUN["half the settings"][0], GO_ON, r"config.json must be a run's settings"),
    (RUN["an unknown setting"][0], GO_ON, r"config.json must be .*unknown key 'stepz'"),
    (RUN["a number for the settings"][0], GO_ON, r"config.json must be .*must be a group"),
    (RUN["an altered manifest"][0], GO_ON, r"checkpoint.json must be a checkpoint's manifest"),
    (RUN["half a state"][0], GO_ON, r"state.safetensors must have"),
]


@pytest.mark.parametrize(("damage", "line", "words"), OF_A_RUN, ids=lambda case: str(case)[-50:])
def test_what_does_not_fit_the_run_is_refused(
    damage: Callable[[Path], Any],
    line: str,
    words: str,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained, "runs")
    damage(Path("runs/run"))
    assert re.search(words, refusal(line, capsys), re.DOTALL)
