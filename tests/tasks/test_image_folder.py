from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmeta.tasks.image_folder import load_image_folder
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.source import SPLITS, EpisodeSize
from tests.tasks.conftest import real_data, write_pictures, zip_tree


def load(root: Path, **options: Any) -> ImageClasses:
    return load_image_folder(root=str(root), **{"size": 8, "cache": False, **options})


def names(source: ImageClasses) -> list[tuple[str, ...]]:
    """Labels of each split."""
    return [tuple(n.rpartition("/")[0] for n in source.split_class_names(s)) for s in SPLITS]


@pytest.mark.parametrize("zipped", [False, True])
def test_classes_are_split_by_ratio(tmp_path: Path, zipped: bool) -> None:
    root = write_pictures(tmp_path / "set", {f"class{i}": 3 for i in range(10)})
    source = load(zip_tree(root, tmp_path / "set.zip") if zipped else root)
    assert source.images.shape == (30, 8, 8, 3)
    assert [len(own) for own in names(source)] == [6, 2, 2]
    assert sorted(sum(names(source), ())) == [f"class{i}" for i in range(10)]
    assert names(load(root)) == names(source)
    assert names(load(root, split_seed=1)) != names(source)
    everything = load(root, split_ratio=[0, 0, 1])
    assert [len(own) for own in names(everything)] == [0, 0, 10]
    with pytest.raises(ValueError, match=r"split 'val' must have classes, got none.*eval\.every=0"):
        everything.check("val", EpisodeSize(2, 1, 1))


def test_pictures_may_be_split_instead_of_classes(tmp_path: Path) -> None:
    source = load(write_pictures(tmp_path, {"a": 10, "b": 20}), split_by="example")
    assert names(source) == [(f"a ({s})", f"b ({s})") for s in SPLITS]
    assert np.diff(source.starts).tolist() == [2, 6, 2, 4, 12, 4]
    rows = {row.tobytes() for row in source.images}
    assert len(rows) == 30
    other = load(tmp_path, split_by="example", split_seed=1)
    assert {row.tobytes() for row in other.images} == rows
    assert not np.array_equal(other.images, source.images)
    write_pictures(tmp_path, {"another": 10})  # the others stay as they are
    more = load(tmp_path, split_by="example")
    assert np.array_equal(more.class_examples("test", 0), source.class_examples("test", 0))


def test_folders_and_tables_say_the_splits(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_pictures(root, {"train/a": 2, "train/b": 3, "val/c": 2, "test/d": 1})
    assert names(load(root)) == [("a", "b"), ("c",), ("d",)]
    table = tmp_path / "labels.csv"
    table.write_text("path,label,split\ntrain/b/0.png,x,test\ntrain/b/1.png,y,train\n")
    source = load(root, file=str(table))
    assert names(source) == [("y",), (), ("x",)]
    assert np.array_equal(source.images[0], load(root).class_examples("train", 1)[0])
    table.write_text("path,label\ntrain/b/0.png,x\ntrain/b/1.png,y\n")
    assert sorted(sum(names(load(root, file=str(table))), ())) == ["x", "y"]


def test_a_class_in_two_splits_must_be_asked_for(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"train/a": 2, "test/a": 3, "test/b": 1})
    with pytest.raises(
        ValueError, match=r"one split, got 'a' in test and train; .*split_by=example"
    ):
        load(tmp_path)
    assert names(load(tmp_path, split_by="example")) == [("a (train)",), (), ("a (test)", "b")]


def test_any_format_and_size_becomes_a_square(tmp_path: Path) -> None:
    wide = np.zeros((8, 16), dtype=np.uint8)
    wide[:, 4:12] = np.arange(8) * 30
    formats = ("0.png", "1.bmp", "2.pgm", "3.tif", "4.gif", "5.webp")
    for number, name in enumerate(formats):
        mode, options = ("RGB", {"lossless": True}) if name.endswith("webp") else ("L", {})
        path = tmp_path / name[0] / name
        path.parent.mkdir()
        Image.fromarray(wide + np.uint8(number)).convert(mode).save(path, **options)
    source = load(tmp_path, channels=1)
    assert source.input_shape == (1, 8, 8)
    for number, image in enumerate(source.images):
        assert np.array_equal(image, wide[:, 4:12] + number)
    stretched = load(tmp_path, channels=1, fit="stretch").images[0]
    assert max(stretched[:, 0].max(), stretched[:, -1].max()) < 20  # the edges, which a crop loses
    assert load(tmp_path).images.shape == (6, 8, 8, 3)
    with pytest.raises(ValueError, match="must be readable"):
        load(write_pictures(tmp_path / "eps", {"a": 1}, b"%!PS-Adobe-3.0 EPSF-3.0\n"))


def test_the_same_picture_counts_once_and_of_no_class_if_it_is_in_two(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"a": 3, "b": 3, "c": 3})
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "copy.png")
    shutil.copy(tmp_path / "a" / "1.png", tmp_path / "b" / "copy.png")
    names = r"'a/1\.png', 'a/copy\.png', 'b/copy\.png'"
    with pytest.warns(UserWarning, match=rf"left out of .*: 3 pictures .* another \({names}\)"):
        source = load(tmp_path, split_ratio=[1, 0, 0])
    assert source.class_names == ("a", "b", "c")
    assert np.diff(source.starts).tolist() == [2, 3, 3]
    assert len({image.tobytes() for image in source.images}) == 8


def test_unreadable_pictures_are_refused_or_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "b" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"must be readable, got 'b/1\.png' in .* \(no image\); "):
        load(tmp_path)
    with pytest.warns(UserWarning, match=r"1 pictures that cannot be read \('b/1\.png'\)"):
        source = load(tmp_path, skip_unreadable=True, split_ratio=[1, 0, 0])
    assert np.diff(source.starts).tolist() == [3, 2]


def test_small_classes_are_left_out_and_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"a": 3, "b\n": 2, "c": 4})
    with pytest.warns(UserWarning, match=r"1 classes with fewer pictures .*\('b\\n'\)"):
        assert load(tmp_path, min_per_class=3, split_ratio=[1, 0, 0]).class_names == ("a", "c")
    with pytest.raises(ValueError, match=r"<= 2 \(class 'b\\n'\), got 3.*at_most$"):
        load(tmp_path, split_ratio=[1, 0, 0]).check("train", EpisodeSize(2, 1, 2))


def test_turned_classes(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"a": 2, "b": 2})
    source = load(tmp_path, split_ratio=[1, 0, 0], rotations="classes")
    assert len(source.split_class_names("train")) == source.num_classes("train") == 8
    assert load(tmp_path, rotations="per_task").turned_per_task == frozenset(SPLITS)


def test_the_cache_is_that_of_these_files_and_options(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "set", {"a": 3, "b": 3})
    first = load(root, cache=True)
    assert np.array_equal(load(root, cache=True).images, first.images)
    assert load(root, cache=True, size=6).images.shape == (6, 6, 6, 3)
    assert load(root, cache=True, channels=1).images.shape == (6, 8, 8)
    write_pictures(root, {"c": 1})
    assert load(root, cache=True, split_ratio=[1, 0, 0]).class_names == ("a", "b", "c")
    assert len(list(root.rglob("*.*"))) == 7  # nothing is written there


def test_a_run_notes_which_pictures_it_has(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "set", {"a": 3, "b": 3, "c": 2})
    digest = load(root).sha256
    assert load(root, sha256=digest, split_seed=1, cache=True).sha256 == digest
    moved = root.rename(tmp_path / "moved")
    assert load(moved, sha256=digest).sha256 == digest
    (moved / "a" / "2.png").rename(moved / "b" / "3.png")
    with pytest.raises(ValueError, match=r"task\.root must have the pictures .* begun with \(SHA"):
        load(moved, sha256=digest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": ""}, r"task\.root must be the folder or zip with the pictures, got nothing"),
        ({"root": "nowhere"}, r"task\.root must be .*nowhere, which does not exist"),
        ({"root": "s3://bucket/x"}, r"task\.root must be on this machine, got s3://bucket/x"),
        ({"file": "no.csv"}, r"task\.file must be a csv file, got .*no\.csv, which does not exist"),
        ({"split_ratio": [0, 0, 0]}, r"task\.split_ratio must be the shares"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_pictures(tmp_path, {"a": 2})
    with pytest.raises(ValueError, match=message):
        load_image_folder(**{"root": str(tmp_path), **options})


@pytest.mark.slow
def test_folders_of_hands_and_cells() -> None:
    root = real_data("sign-digits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hands = load_image_folder(root=str(root / "sign-digits"), size=32, cache=False)
        cells = load_image_folder(
            root=str(root / "blood-cells"), size=32, split_by="example", cache=False
        )
    assert hands.class_names == tuple("0123456789")
    assert np.diff(hands.starts).tolist() == [40, 34, 30, 27, 25, 24, 23, 22, 21, 20]
    assert np.diff(cells.starts).sum() == 480
