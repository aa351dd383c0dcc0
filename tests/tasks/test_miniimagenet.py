from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmeta.tasks.images import ImageClasses
from dmeta.tasks.inventory import inventory
from dmeta.tasks.miniimagenet import load_miniimagenet
from dmeta.tasks.source import SPLITS, EpisodeSize
from dmeta.tasks.status import DataSetStatus, MissingDataError
from tests.tasks.conftest import real_data, zip_tree


def load(root: Path) -> ImageClasses:
    return load_miniimagenet(root=str(root), cache=False)


def test_the_csv_files_say_which_class_is_in_which_split(mini_tree: Path) -> None:
    source = load(mini_tree)
    assert source.class_names == ("n01", "n02", "n03", "n04", "n05")
    assert np.diff(source.starts).tolist() == [3, 4, 2, 3, 3]
    assert [source.split_class_names(s) for s in SPLITS] == [
        ("n01/rot000", "n02/rot000"),
        ("n03/rot000",),
        ("n04/rot000", "n05/rot000"),
    ]
    with pytest.raises(ValueError, match=r"<= 2 \(class 'n03'\), got 3"):
        source.check("val", EpisodeSize(1, 1, 2))


def test_pixels_are_the_jpegs_and_other_sizes_are_resized(mini_tree: Path) -> None:
    source = load(mini_tree)
    assert source.images.shape == (15, 84, 84, 3)
    with Image.open(mini_tree / "mini-imagenet" / "images" / "n020001.jpg") as image:
        assert np.array_equal(source.images[source.starts[1] + 1], np.asarray(image))


@pytest.mark.parametrize("reverse", [False, True])
def test_zip_and_tree_give_the_same(mini_tree: Path, tmp_path: Path, reverse: bool) -> None:
    zipped = tmp_path / "zipped"
    zip_tree(mini_tree / "mini-imagenet", zipped / "mini-imagenet" / "mini-imagenet.zip", reverse=reverse)  # noqa: E501  # fmt: skip
    a, b = load(mini_tree), load(zipped)
    assert a.class_names == b.class_names
    assert np.array_equal(a.images, b.images)


def test_the_order_of_csv_rows_does_not_matter(mini_tree: Path) -> None:
    before = load(mini_tree)
    table = mini_tree / "mini-imagenet" / "train.csv"
    header, *rows = table.read_text().split()
    table.write_text("\n".join([header, *rows[::-1]]))
    assert np.array_equal(load(mini_tree).images, before.images)


def test_missing_files_are_counted_and_named(mini_tree: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"got nothing .*; place train\.csv, val\.csv"):
        load(tmp_path / "nowhere")
    (mini_tree / "mini-imagenet" / "images" / "n020001.jpg").unlink()
    with pytest.raises(MissingDataError, match=r"1 files missing \(n020001\.jpg\)"):
        load(mini_tree)
    (mini_tree / "mini-imagenet" / "val.csv").unlink()
    with pytest.raises(MissingDataError, match=r"2 files missing \(val\.csv, n020001\.jpg\)"):
        load(mini_tree)
    status = next(s for s in inventory(mini_tree) if s.name == "miniimagenet")
    assert not status.complete
    assert status.missing == ("val.csv", "n020001.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,label\nn030000.jpg,n02\n", "splits must be disjoint"),
        ("filename,label\nn020000.jpg,n03\n", "splits must be disjoint"),
        ("filename,label\nn030000.jpg,n03\nn030000.jpg,n03\n", "each image once"),
        ("name,label\nn030000.jpg,n03\n", "columns filename,label"),
        ("filename,label\nn030000.jpg\n", "columns filename,label"),
        ("", "columns filename,label"),
    ],
)
def test_wrong_csv_files_are_refused(mini_tree: Path, text: str, message: str) -> None:
    (mini_tree / "mini-imagenet" / "val.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(mini_tree)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_damaged_image_is_named(mini_tree: Path, content: bytes | None) -> None:
    image = mini_tree / "mini-imagenet" / "images" / "n050002.jpg"
    image.write_bytes(image.read_bytes()[:3000] if content is None else content)
    with pytest.raises(ValueError, match=r"must be readable, got 'images/n050002\.jpg'"):
        load(mini_tree)


@pytest.mark.data
@pytest.mark.slow
def test_the_real_set_has_64_16_and_20_classes() -> None:
    source = load(real_data("mini-imagenet/mini-imagenet.zip"))
    assert [len(source.splits[split]) for split in SPLITS] == [64, 16, 20]
    for split in SPLITS:
        source.check(split, EpisodeSize(5, 5, 15))


def test_the_folder_may_also_hold_files_that_are_not_named(mini_tree: Path) -> None:
    assert (mini_tree / "mini-imagenet" / "images" / "unnamed.jpg").exists()
    shutil.copy(mini_tree / "mini-imagenet" / "train.csv", mini_tree / "mini-imagenet" / "old.csv")
    assert len(load(mini_tree).images) == 15


def test_a_name_in_two_folders_is_the_image_in_images(mini_tree: Path, tmp_path: Path) -> None:
    """By its base name alone it was whichever came last."""
    folder = mini_tree / "mini-imagenet"
    expected = load(mini_tree).images
    for other in ("thumbnails", "a"):  # sorted after and before "images"
        shutil.copytree(folder / "images", folder / other)
        black = Image.fromarray(np.zeros((84, 84, 3), np.uint8))
        for path in (folder / other).glob("n*.jpg"):
            black.save(path)
    assert np.array_equal(load(mini_tree).images, expected)
    zip_tree(folder, tmp_path / "zip" / "mini-imagenet" / "mini-imagenet.zip")
    assert np.array_equal(load(tmp_path / "zip").images, expected)


def by_class(mini_tree: Path, *, named: bool) -> Path:
    """The images as `<class>/<number>.jpg`; the csv files name them with or without the folder."""
    folder = mini_tree / "mini-imagenet"
    for split in SPLITS:
        rows = ["filename,label"]
        for row in (folder / f"{split}.csv").read_text().split()[1:]:
            filename, label = row.split(",")
            (folder / label).mkdir(exist_ok=True)
            (folder / "images" / filename).rename(folder / label / filename[3:])
            rows.append(f"{label}/{filename[3:]},{label}" if named else f"{filename[3:]},{label}")
        (folder / f"{split}.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("named", [True, False])
def test_names_that_repeat_in_the_folders_of_the_classes(mini_tree: Path, named: bool) -> None:
    expected = load(mini_tree).images
    by_class(mini_tree, named=named)
    assert np.array_equal(load(mini_tree).images, expected)


def test_a_name_that_may_be_several_files_is_refused(mini_tree: Path) -> None:
    folder = by_class(mini_tree, named=False)
    (folder / "n01").rename(folder / "first")
    with pytest.raises(
        ValueError, match=r"must mean one file, got '\d+\.jpg' .* or .*; remove all"
    ):
        load(mini_tree)
    (folder / "first").rename(folder / "n01")
    shutil.copytree(folder / "n01", folder / "copy" / "n01")
    with pytest.raises(ValueError, match="must mean one file"):
        load(mini_tree)


def test_two_csv_files_of_a_split_are_refused(mini_tree: Path) -> None:
    folder = mini_tree / "mini-imagenet"
    (folder / "old").mkdir()
    shutil.copy(folder / "train.csv", folder / "old" / "train.csv")
    with pytest.raises(ValueError, match=r"must mean one file, got 'train\.csv'"):
        load(mini_tree)


def test_an_image_of_two_classes_is_refused(mini_tree: Path) -> None:
    table = mini_tree / "mini-imagenet" / "train.csv"
    table.write_text(table.read_text() + "n010000.jpg,n02\n")
    with pytest.raises(ValueError, match=r"must name each image once, got .n010000\.jpg"):
        load(mini_tree)


def as_folders(mini_tree: Path, root: Path) -> Path:
    """The same images as <split>/<class>/*.jpg."""
    source = mini_tree / "mini-imagenet"
    for split in SPLITS:
        for row in (source / f"{split}.csv").read_text().split()[1:]:
            filename, label = row.split(",")
            target = root / "mini-imagenet" / split / label / filename
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / "images" / filename, target)
    return root


def as_pickles(mini_tree: Path, root: Path, protocol: int = 2, *, lists: bool = False) -> Path:
    """The same images as pickle caches; the classes of a file in another order than the names'."""
    source = load(mini_tree)
    (root / "mini-imagenet").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        images, rows = [], {}
        for place in reversed(range(len(source.splits[split]))):
            own = source.class_examples(split, place)
            label = source.split_class_names(split)[place].partition("/")[0]
            rows[label] = list(range(len(images), len(images) + len(own)))
            images += list(own)
        data = {"image_data": images if lists else np.stack(images), "class_dict": rows}
        path = root / "mini-imagenet" / f"mini-imagenet-cache-{split}.pkl"
        path.write_bytes(pickle.dumps(data, protocol))
    return root


def assert_same(a: ImageClasses, b: ImageClasses) -> None:
    assert a.class_names == b.class_names
    assert np.array_equal(a.starts, b.starts)
    assert np.array_equal(a.images, b.images)
    for split in SPLITS:
        assert np.array_equal(a.splits[split], b.splits[split])


def status_of(root: Path) -> DataSetStatus:
    return next(s for s in inventory(root) if s.name == "miniimagenet")


def test_class_folders_give_the_same_as_csv_files(mini_tree: Path, tmp_path: Path) -> None:
    folders = as_folders(mini_tree, tmp_path / "folders")
    assert_same(load(folders), load(mini_tree))
    assert status_of(folders).complete
    assert "train: 2 classes, 7 images" in status_of(folders).found
    zip_tree(folders / "mini-imagenet", tmp_path / "z" / "mini-imagenet" / "mini-imagenet.zip")
    assert_same(load(tmp_path / "z"), load(mini_tree))
    shutil.rmtree(folders / "mini-imagenet" / "val")
    with pytest.raises(MissingDataError, match=r"1 files missing \(val/\)"):
        load(folders)
    shutil.copytree(folders / "mini-imagenet" / "train", folders / "mini-imagenet" / "val")
    with pytest.raises(ValueError, match=r"must be disjoint, got a folder 'n01' in train and in v"):
        load(folders)
    assert "disjoint" in status_of(folders).missing[0]


@pytest.mark.parametrize(("protocol", "lists"), [(2, False), (5, False), (4, True)])
def test_pickles_give_the_same_as_csv_files(
    mini_tree: Path, tmp_path: Path, protocol: int, lists: bool
) -> None:
    root = as_pickles(mini_tree, tmp_path / "pickles", protocol, lists=lists)
    assert_same(load(root), load(mini_tree))
    assert status_of(root).complete
    for _ in range(2):  # decoded, then from the cache
        assert_same(load_miniimagenet(root=str(root)), load(mini_tree))


def test_missing_and_wrong_pickles_are_named(mini_tree: Path, tmp_path: Path) -> None:
    root = as_pickles(mini_tree, tmp_path / "pickles")
    folder = root / "mini-imagenet"
    test, val = (folder / f"mini-imagenet-cache-{split}.pkl" for split in ("test", "val"))
    content = val.read_bytes()
    val.unlink()
    with pytest.raises(MissingDataError, match=r"1 files missing \(mini-imagenet-cache-val\.pkl\)"):
        load(root)
    assert status_of(root).missing == ("mini-imagenet-cache-val.pkl",)
    shutil.copy(test, val)
    with pytest.raises(ValueError, match=r"must be disjoint, got class 'n04' in .*-test\.pkl and"):
        load(root)
    images = np.zeros((2, 84, 84, 3), np.uint8)
    for wrong in (
        [1, 2],
        {"image_data": images},
        {"image_data": images, "class_dict": {"n03": [0, 2]}},
        {"image_data": images, "class_dict": {"n03": [0, -1]}},
        {"image_data": images, "class_dict": {"n03": []}},
        {"image_data": images, "class_dict": {"n03": ["a"]}},
        {"image_data": images[:, :80], "class_dict": {"n03": [0, 1]}},
        {"image_data": images / 255, "class_dict": {"n03": [0, 1]}},
        {"image_data": [images[0], images[0, 1:]], "class_dict": {"n03": [0, 1]}},
    ):
        val.write_bytes(pickle.dumps(wrong))
        with pytest.raises(ValueError, match=r"must be a dict with image_data, uint8 \[N, 84, 84"):
            load(root)
    val.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"must hold numbers, .*cache-val\.pkl \(.*nothing of it"):
        load(root)


def test_csv_files_are_preferred_to_other_forms(mini_tree: Path, tmp_path: Path) -> None:
    expected = load(mini_tree)
    for split in SPLITS:
        (mini_tree / "mini-imagenet" / f"mini-imagenet-cache-{split}.pkl").write_bytes(b"not read")
    assert_same(load(mini_tree), expected)
