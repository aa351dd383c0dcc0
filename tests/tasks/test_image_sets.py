"""The declared image data sets, on small trees in the form in which they are distributed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmeta.tasks import TASKS
from dmeta.tasks.datasets.cifar_fs import CIFAR_FS
from dmeta.tasks.datasets.cub import CUB
from dmeta.tasks.datasets.fc100 import FC100
from dmeta.tasks.datasets.tiered_imagenet import TIERED_IMAGENET
from dmeta.tasks.image_set import ImageSet, image_set_status, load_image_set, split_list
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.inventory import inventory
from dmeta.tasks.source import SPLITS
from dmeta.tasks.status import MissingDataError
from tests.tasks.conftest import real_data, zip_tree

FORMS = {
    "cub": (CUB, "CUB_200_2011/images/{label}/{label}_{number}.jpg"),
    "cifar_fs": (CIFAR_FS, "cifar100/data/{label}/{label}_{number}.png"),
    "fc100": (FC100, "cifar100/data/{label}/{label}_{number}.png"),
    "tiered_imagenet": (TIERED_IMAGENET, "tiered_imagenet/{split}/{label}/{label}_{number}.JPEG"),
}
SIZES = {
    "cub": (100, 50, 50), "cifar_fs": (64, 16, 20), "fc100": (60, 20, 20),
    "tiered_imagenet": (351, 97, 160),
}  # fmt: skip


def tree(root: Path, name: str) -> ImageSet:
    """Three classes of each split with two images each; returns what declares them."""
    declared, form = FORMS[name]
    rng = np.random.default_rng(0)
    for split, labels in few(name).items():
        for label in labels:
            for number in range(2):
                path = root / form.format(split=split, label=label, number=number)
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(256, size=(20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    (root / form.partition("/")[0] / "README.txt").write_text("not read")
    return declared if declared.images_per_class is None else with_two(declared)


def with_two(declared: ImageSet) -> ImageSet:
    return dataclasses.replace(declared, images_per_class=2)


def few(name: str) -> dict[str, list[str]]:
    return {split: labels[:3] for split, labels in split_list(name).items()}


@pytest.mark.parametrize("name", FORMS)
def test_the_lists_are_of_the_published_sizes_and_disjoint(name: str) -> None:
    lists = split_list(name)
    assert tuple(len(lists[split]) for split in SPLITS) == SIZES[name]
    everything = [label for own in lists.values() for label in own]
    assert len(set(everything)) == len(everything)
    assert all(own == sorted(own) for own in lists.values())


def test_birds_are_split_as_in_the_code_of_chen_et_al() -> None:
    lists = split_list("cub")
    ordered = sorted(label for own in lists.values() for label in own)
    for place, label in enumerate(ordered):
        expected = "train" if place % 2 == 0 else ("val" if place % 4 == 1 else "test")
        assert label in lists[expected]


def test_birds_may_be_split_as_in_meta_dataset(tmp_path: Path) -> None:
    for label in (label for own in split_list("cub").values() for label in own):
        path = tmp_path / "CUB_200_2011" / "images" / label / f"{label}_1.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(path)
    for split_name, lists in (("chen", "cub"), ("metadataset", "cub_metadataset")):
        source = TASKS["cub"].make(root=str(tmp_path), size=2, cache=False, split=split_name)
        assert isinstance(source, ImageClasses)
        for split in SPLITS:
            own = [label.removesuffix("/rot000") for label in source.split_class_names(split)]
            assert own == split_list(lists)[split]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_tree_is_read(tmp_path: Path, name: str, zipped: bool) -> None:
    declared = tree(tmp_path / "data", name)
    root = tmp_path / "data"
    if zipped:
        archive = next(place for place in declared.places if place.endswith(".zip"))
        zip_tree(root, tmp_path / "zips" / archive, reverse=True)
        root = tmp_path / "zips"
    source = load_image_set(declared, few(name), root=str(root), size=16, cache=False)
    for split in SPLITS:
        assert source.split_class_names(split) == tuple(f"{c}/rot000" for c in few(name)[split])
    assert source.images.shape == (18, 16, 16, 3)
    assert np.diff(source.starts).tolist() == [2] * 9
    assert len({image.tobytes() for image in source.images}) == 18
    assert image_set_status(declared, few(name), root).complete


@pytest.mark.parametrize("name", FORMS)
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingDataError, match=r"got nothing \(looked in"):
        TASKS[name].make(root=str(tmp_path))
    declared = tree(tmp_path, name)
    with pytest.raises(MissingDataError, match=r"\d+ of \d+ classes missing \("):
        TASKS[name].make(root=str(tmp_path), cache=False)
    status = next(each for each in inventory(tmp_path) if each.name == name)
    assert not status.complete
    assert "classes missing" in status.missing[0]
    assert status.found == "9 classes, 18 images"
    if declared.images_per_class is not None:
        more = dataclasses.replace(declared, images_per_class=3)
        with pytest.raises(MissingDataError, match=r"got 2 of 3 images of class"):
            load_image_set(more, few(name), root=str(tmp_path), size=16, cache=False)


@pytest.mark.slow
def test_the_lists_are_those_of_other_libraries() -> None:
    root = real_data("splits") / "splits"
    for split, own in split_list("cub").items():
        assert own == sorted(json.loads((root / f"torchmeta/cub/{split}.json").read_text()))
    for split, own in split_list("tiered_imagenet").items():
        theirs = json.loads((root / f"easyfsl/tiered_imagenet/{split}.json").read_text())
        assert own == sorted(theirs["class_names"])
    coarse_of = {}
    for split, own in split_list("cifar_fs").items():
        pairs = json.loads((root / f"torchmeta/cifar100/cifar-fs/{split}.json").read_text())
        assert own == sorted(fine for _, fine in pairs)
        coarse_of |= {fine: coarse for coarse, fine in pairs}
    for split, own in split_list("fc100").items():
        theirs = json.loads((root / f"torchmeta/cifar100/fc100/{split}.json").read_text())
        assert {coarse_of[fine] for fine in own} == set(theirs)
