"""Bad data trees and files of features are refused by name, before anything is started."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmeta.tasks.source import SPLITS
from tests.cli.refusal import (  # noqa: F401
    change,
    cut,
    nothing_starts,
    refusal,
    replace_by_folder,
)

pytestmark = pytest.mark.usefixtures("nothing_starts")


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


def write_caches(folder: Path, data: Any) -> None:
    for split in SPLITS:
        (folder / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(data))


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
        r"must name each image once, got 'test0.jpg' of class 'test0' twice",
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
    "pickles that could run code": (
        lambda mini: (shutil.rmtree(mini), mini.mkdir(), write_caches(mini, os.getcwd)),
        r"cache-train.pkl \(it names posix.getcwd, which could run code\); nothing of it was run",
    ),
    "pickles of something else": (
        lambda mini: (shutil.rmtree(mini), mini.mkdir(), write_caches(mini, {"data": [1]})),
        r"must be a dict with image_data, .*got .*cache-train.pkl with data",
    ),
    "too few images": (lambda mini: None, r"shots \+ queries must be <= 2 .*lower task"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OMNIGLOT)
def test_a_bad_tree_of_omniglot_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = OMNIGLOT[case]
    damage(Path("root"))
    assert re.search(words, refusal("train task=omniglot task.root=root", capsys), re.DOTALL)


@pytest.mark.slow
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
        r"split 'test' must have classes, got none; change the splits of the data",
    ),
    "objects": ({"labels": np.array([object()] * N)}, r"an .npz of plain arrays"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FEATURES)
def test_wrong_arrays_of_features_are_refused(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, words = FEATURES[case]
    np.savez("x.npz", **(ARRAYS | changes))
    told = refusal("train task=features task.file=x.npz task.ways=2 task.queries=1", capsys)
    assert re.search(words, told, re.DOTALL)
    assert "x.npz" in told or "task.split_ratio" in told


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


@pytest.mark.slow
@pytest.mark.parametrize("case", NO_FEATURES)
def test_what_is_no_file_of_features_is_refused(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    NO_FEATURES[case](Path("x.npz"))
    told = refusal("train task=features task.file=x.npz", capsys)
    assert re.search(r"x\.npz.*make one with `dmeta embed", told, re.DOTALL)
