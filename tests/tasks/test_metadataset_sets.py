"""Members of Meta-Dataset, on small trees in the form in which they are distributed."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from dmeta.tasks import TASKS
from dmeta.tasks.image_set import ImageSet, image_set_status, load_image_set, split_list
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.source import SPLITS, EpisodeSize, Split
from dmeta.tasks.status import MissingDataError
from tests.tasks.conftest import real_data, zip_tree
from tests.tasks.test_cdfsl_sets import pictures, save, status_of

SIZES = {
    "aircraft": (70, 15, 15), "dtd": (33, 7, 7), "fungi": (994, 200, 200),
    "quickdraw": (241, 52, 52), "traffic_sign": (0, 0, 43), "vgg_flower": (71, 15, 16),
    "cub_metadataset": (140, 30, 30),
}  # fmt: skip


def classes(name: str) -> list[str]:
    return sorted(label for own in split_list(name).values() for label in own)


def lists(name: str) -> dict[Split, list[str]]:
    """The classes that the tree of a set has: all, or of the largest 20 of each split."""
    found = split_list(name)
    return {split: own[:20] for split, own in found.items()} if name == "fungi" else found


def write_aircraft(root: Path) -> None:
    """Each photograph has another colour within its box than outside."""
    folder = root / "fgvc-aircraft-2013b" / "data"
    texts: dict[str, list[str]] = {"trainval": [], "test": [], "box": []}
    rng = np.random.default_rng(0)
    for number in range(2 * 100):
        name, label = f"{number:07d}", classes("aircraft")[number % 100]
        texts["test" if number < 50 else "trainval"].append(f"{name} {label}")
        texts["box"].append(f"{name} 2 1 9 5")
        pixels = np.zeros((7, 10, 3), np.uint8)
        pixels[1:5, 2:9] = 1 + rng.integers(255, size=3)
        save(folder / "images" / f"{name}.jpg", Image.fromarray(pixels))
    for part in ("trainval", "test"):
        (folder / f"images_variant_{part}.txt").write_text("\n".join(texts[part]) + "\n")
    (folder / "images_box.txt").write_text("\n".join(texts["box"]) + "\n")
    (folder / "variants.txt").write_text("not read")


def write_dtd(root: Path) -> None:
    made = pictures((9, 12, 3))
    for label in classes("dtd"):
        for number in range(1, 3):
            save(root / "dtd" / "images" / label / f"{label}_{number:04d}.jpg", next(made))
    (root / "dtd" / "labels").mkdir()
    (root / "dtd" / "labels" / "train1.txt").write_text("not read")


def write_signs(root: Path) -> None:
    made = pictures((15, 17, 3))
    for number in range(43):
        folder = root / "GTSRB" / "Final_Training" / "Images" / f"{number:05d}"
        for photograph in range(2):
            save(folder / f"00000_{photograph:05d}.ppm", next(made))
        (folder / f"GT-{number:05d}.csv").write_text("Filename;Width;Height\n")


def write_flowers(root: Path) -> None:
    made, numbers = pictures((10, 8, 3)), [*range(102, 0, -1), *range(1, 103)]
    for place, _ in enumerate(numbers, 1):
        save(root / "vgg_flower" / "jpg" / f"image_{place:05d}.jpg", next(made))
    labels = np.array([numbers], dtype=np.uint8)
    scipy.io.savemat(root / "vgg_flower" / "imagelabels.mat", {"labels": labels})


def write_fungi(root: Path) -> None:
    made = pictures((6, 6, 3))
    categories = [
        {"id": int(name[:4]), "name": name[5:], "supercategory": "x"}
        for own in lists("fungi").values()
        for name in own
    ]
    for number, part in enumerate(("train", "val")):
        table: dict[str, list[dict[str, object]]] = {
            "categories": categories, "images": [], "annotations": [],
        }  # fmt: skip
        for category in categories:
            file = f"images/{category['id']:04d}_{category['name']}/{number}.JPG"
            identity = 10 * int(str(category["id"])) + number
            table["images"].append({"id": identity, "file_name": file})
            table["annotations"].append(
                {"id": identity, "image_id": identity, "category_id": category["id"]}
            )
            save(root / "fungi" / file, next(made))
        (root / "fungi" / f"{part}.json").write_text(json.dumps(table))


SETS: dict[str, tuple[Callable[[Path], None], str]] = {
    "aircraft": (write_aircraft, "fgvc-aircraft-2013b"),
    "dtd": (write_dtd, "dtd"),
    "fungi": (write_fungi, "fungi"),
    "traffic_sign": (write_signs, ""),
    "vgg_flower": (write_flowers, "vgg_flower"),
}
ARCHIVES = {"traffic_sign": "GTSRB_Final_Training_Images"}
LACKING = {
    "aircraft": r"got 2 of 100 images of class 707-320",
    "dtd": r"got 2 of 120 images of class banded",
    "fungi": r"got 1334 of 1394 classes missing \(0029\.Amanita",
}
"""Sets of which the tree is not all."""


@pytest.fixture(scope="module")
def tree_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Set -> a data root that has it; not to be changed."""

    @functools.cache
    def tree(name: str) -> Path:
        root = tmp_path_factory.mktemp(name)
        SETS[name][0](root)
        return root

    return tree


def declared(name: str) -> ImageSet:
    """The declaration, but for two images a class."""
    module = import_module(f"dmeta.tasks.datasets.{name}")
    own: ImageSet = module.status.args[0]
    return dataclasses.replace(own, images_per_class=2)


def load(name: str, root: Path) -> ImageClasses:
    return load_image_set(declared(name), lists(name), root=str(root), size=4, cache=False)


@pytest.mark.parametrize("name", SIZES)
def test_the_lists_are_of_the_published_sizes_and_disjoint(name: str) -> None:
    lists = split_list(name)
    assert tuple(len(lists[split]) for split in SPLITS) == SIZES[name]
    assert len(set(classes(name))) == sum(SIZES[name])
    assert all(own == sorted(own) for own in lists.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_lists_are_those_of_meta_dataset(name: str) -> None:
    root = real_data("splits/metadataset") / "splits" / "metadataset" / "splits"
    own = {"cub_metadataset": "cu_birds"}.get(name, name)
    theirs = json.loads((root / f"{own}_splits.json").read_text())
    theirs["val"] = theirs.pop("valid")
    assert split_list(name) == {split: sorted(labels) for split, labels in theirs.items()}


@pytest.mark.parametrize("name", SETS)
def test_a_tree_is_read(name: str, tree_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder, root = SETS[name][1], tree_of(name)
    source = load(name, root)
    for split in SPLITS:
        labels = [label.removesuffix("/rot000") for label in source.split_class_names(split)]
        assert labels == lists(name)[split]
    num_classes = len(source.class_names)
    assert np.diff(source.starts).tolist() == [2] * num_classes
    source.check("test", EpisodeSize(5, 1, 1))
    found = image_set_status(declared(name), lists(name), root)
    assert found.complete
    assert found.found == f"{num_classes} classes, {2 * num_classes:,} images"
    zip_tree(root / folder, tmp_path / f"{ARCHIVES.get(name, folder)}.zip", reverse=True)
    assert np.array_equal(load(name, tmp_path).images, source.images)
    assert status_of(name, root).complete is (name not in LACKING)
    if name in LACKING:
        with pytest.raises(MissingDataError, match=LACKING[name]):
            TASKS[name].make(root=str(root))
    else:
        same = TASKS[name].make(root=str(root), size=4, cache=False)
        assert isinstance(same, ImageClasses)
        assert np.array_equal(same.images, source.images)


def test_aircraft_are_cut_out_by_their_boxes(tree_of: Callable[[str], Path]) -> None:
    source = load("aircraft", tree_of("aircraft"))
    place = source.class_names.index("Falcon 2000")
    file = f"{place:07d}.jpg"  # the first of the class
    with Image.open(
        tree_of("aircraft") / "fgvc-aircraft-2013b" / "data" / "images" / file
    ) as image:
        within = image.crop((2, 1, 9, 5)).resize((4, 4), Image.Resampling.LANCZOS)
    assert np.array_equal(source.images[source.starts[place]], np.asarray(within))


def test_flowers_have_the_class_of_their_place_in_the_table(tree_of: Callable[[str], Path]) -> None:
    source = load("vgg_flower", tree_of("vgg_flower"))
    place = source.class_names.index("102.blackberry lily")
    with Image.open(tree_of("vgg_flower") / "vgg_flower" / "jpg" / "image_00001.jpg") as image:
        squeezed = image.resize((4, 4), Image.Resampling.LANCZOS)
    assert np.array_equal(source.images[source.starts[place]], np.asarray(squeezed))


def test_the_table_of_flowers_needs_scipy_and_must_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_flowers(tmp_path)
    table = tmp_path / "vgg_flower" / "imagelabels.mat"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "scipy.io", None)
        with pytest.raises(ValueError, match=r"^scipy must be installed to read imagelabels\.mat"):
            load("vgg_flower", tmp_path)
    for content in (table.read_bytes()[:200], b"", b"x" * 500):
        table.write_bytes(content)
        with pytest.raises(ValueError, match=r"publisher made it, got imagelabels\.mat in .*again"):
            load("vgg_flower", tmp_path)
    scipy.io.savemat(table, {"labels": np.array([[1, 103]])})
    with pytest.raises(ValueError, match=r"got imagelabels\.mat in .*KeyError: 103"):
        load("vgg_flower", tmp_path)
    assert "imagelabels.mat" in status_of("vgg_flower", tmp_path).missing[0]
    table.unlink()
    with pytest.raises(MissingDataError, match=r"1 files missing \(imagelabels\.mat\)"):
        load("vgg_flower", tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"categories": 1}', "no json"])
def test_a_table_of_fungi_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "fungi").mkdir()
    for name in ("train.json", "val.json"):
        (tmp_path / "fungi" / name).write_text(content)
    with pytest.raises(ValueError, match=r"publisher made it, got train\.json or val\.json in"):
        load("fungi", tmp_path)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawings")
    (root / "quickdraw").mkdir()
    rng = np.random.default_rng(0)
    for label in classes("quickdraw"):
        pixels = rng.integers(256, size=(6, 784), dtype=np.uint8)
        np.save(root / "quickdraw" / f"{label}.npy", pixels)
    return root


def test_the_first_drawings_of_each_class_are_read(drawings: Path) -> None:
    source = TASKS["quickdraw"].make(root=str(drawings), per_class=4)
    assert isinstance(source, ImageClasses)
    assert source.images.shape == (345 * 4, 28, 28)
    for split in SPLITS:
        labels = [label.removesuffix("/rot000") for label in source.split_class_names(split)]
        assert labels == split_list("quickdraw")[split]
        stored = np.load(drawings / "quickdraw" / f"{labels[-1]}.npy")[:4].reshape(4, 28, 28)
        assert np.array_equal(source.class_examples(split, len(labels) - 1), stored)
    assert status_of("quickdraw", drawings).complete
    with pytest.raises(ValueError, match=r"task\.per_class must be <= 6 \(drawings in .*angel|The"):
        TASKS["quickdraw"].make(root=str(drawings), per_class=7)


def test_wrong_files_of_drawings_are_named(drawings: Path, tmp_path: Path) -> None:
    shutil.copytree(drawings / "quickdraw", tmp_path / "quickdraw")
    file = tmp_path / "quickdraw" / "zigzag.npy"
    good = file.read_bytes()
    for pixels in (np.zeros((6, 783), np.uint8), np.zeros((6, 784)), np.array([None] * 6)):
        np.save(file, pixels)
        with pytest.raises(ValueError, match=r"must be uint8 \[n, 784\], got .*zigzag\.npy"):
            TASKS["quickdraw"].make(root=str(tmp_path), per_class=2)
    for content in (b"", good[:20], good[:200], b"x" * 100):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"must be uint8 \[n, 784\], got .*zigzag\.npy"):
            TASKS["quickdraw"].make(root=str(tmp_path), per_class=2)
    file.unlink()
    with pytest.raises(MissingDataError, match=r"got 1 of 345 classes missing \(zigzag\)"):
        TASKS["quickdraw"].make(root=str(tmp_path))
    assert status_of("quickdraw", tmp_path).found == "344 classes"
    with pytest.raises(ValueError, match="must be on this machine"):
        TASKS["quickdraw"].make(root="memory://somewhere")
