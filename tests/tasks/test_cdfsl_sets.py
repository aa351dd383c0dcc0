"""The targets of BSCD-FSL, on small trees in the form in which they are distributed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmeta.tasks import TASKS
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.inventory import inventory
from dmeta.tasks.source import EpisodeSize
from dmeta.tasks.status import DataSetStatus, MissingDataError
from tests.tasks.conftest import zip_tree

EUROSAT = [
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
    "PermanentCrop", "Residential", "River", "SeaLake",
]  # fmt: skip
ISIC = ["AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"]
CHESTX = [
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax",
]  # fmt: skip
CROPS = sorted(f"Crop_({n % 5})___Ill {n:02d}" for n in range(38))
"""Stand for the real names, which the loader does not know."""


def pictures(shape: tuple[int, ...]) -> Iterator[Image.Image]:
    """Every one another."""
    rng = np.random.default_rng(0)
    while True:
        yield Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8))


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_crops(root: Path) -> None:
    made = pictures((16, 16, 3))
    for label in CROPS:
        for number in range(3):
            name = f"0{number}e1-4{number}___RS_HL {number}.JPG"
            save(root / "CropDiseases" / "dataset" / "train" / label / name, next(made))
        save(root / "CropDiseases" / "dataset" / "test" / label / "x.JPG", next(made))


def write_eurosat(root: Path) -> None:
    made = pictures((64, 64, 3))
    for label in EUROSAT:
        for number in (1, 2, 10):
            save(root / "2750" / label / f"{label}_{number}.jpg", next(made))


def write_isic(root: Path) -> None:
    folder, made = root / "ISIC2018", pictures((45, 60, 3))
    columns = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]  # in the order of the file
    rows = ["image," + ",".join(columns)]
    for number in range(21):
        label = ISIC[number % 7]
        cells = ["1.0" if column == label else "0.0" for column in columns]
        rows.append(f"ISIC_{24306 + number:07d},{','.join(cells)}")
        name = f"ISIC_{24306 + number:07d}.jpg"
        save(folder / "ISIC2018_Task3_Training_Input" / name, next(made))
    (folder / "ISIC2018_Task3_Training_Input" / "ATTRIBUTION.txt").write_text("not read")
    table = folder / "ISIC2018_Task3_Training_GroundTruth"
    table.mkdir()
    (table / "ISIC2018_Task3_Training_GroundTruth.csv").write_text("\n".join(rows) + "\n")


def write_chestx(root: Path) -> None:
    folder, made = root / "ChestX", pictures((32, 32))
    rows = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    ]
    others = ["No Finding", "Pneumonia", "Mass|Nodule", "Hernia"]
    for number, label in enumerate([*CHESTX * 3, *others]):
        name = f"{number // 3 + 1:08d}_{number % 3:03d}.png"
        rows.append(f"{name},{label},0,{number},058Y,M,PA,2682,2749,0.143,0.143,")
        if label != "Hernia":  # an image that is not of the classes need not be there
            save(folder / f"images_{number % 2 + 1:03d}" / "images" / name, next(made))
    (folder / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")


SETS: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "crop_disease": (write_crops, CROPS, "CropDiseases"),
    "eurosat": (write_eurosat, EUROSAT, ""),
    "isic": (write_isic, ISIC, "ISIC2018"),
    "chestx": (write_chestx, CHESTX, "ChestX"),
}
ARCHIVES = {"eurosat": "EuroSAT.zip"}


def load(name: str, root: Path) -> ImageClasses:
    source = TASKS[name].make(root=str(root), size=8, cache=False)
    assert isinstance(source, ImageClasses)
    return source


def status_of(name: str, root: Path) -> DataSetStatus:
    return next(status for status in inventory(root) if status.name == name)


@pytest.mark.parametrize("name", SETS)
def test_all_classes_are_test_classes(name: str, tmp_path: Path) -> None:
    write, labels, folder = SETS[name]
    write(tmp_path / "data")
    source = load(name, tmp_path / "data")
    assert source.split_class_names("test") == tuple(f"{label}/rot000" for label in labels)
    assert source.split_class_names("train") == source.split_class_names("val") == ()
    assert np.diff(source.starts).tolist() == [3] * len(labels)
    assert len({image.tobytes() for image in source.images}) == 3 * len(labels)
    source.check("test", EpisodeSize(5, 1, 2))
    with pytest.raises(ValueError, match=r"must have classes, got none.*train on another data set"):
        source.check("train", EpisodeSize(5, 1, 2))
    found = status_of(name, tmp_path / "data")
    assert found.complete
    assert found.found.startswith(f"{len(labels)} classes, {3 * len(labels)} images")
    archive = tmp_path / "zips" / ARCHIVES.get(name, f"{folder}.zip")
    zip_tree(tmp_path / "data" / folder, archive)
    assert np.array_equal(load(name, tmp_path / "zips").images, source.images)


@pytest.mark.parametrize(
    ("name", "removed", "words"),
    [
        ("crop_disease", "CropDiseases/dataset/train/Crop_(0)___Ill 00", "got 37 of 38 classes"),
        ("eurosat", "2750/River", "got 9 of 10 classes"),
        ("isic", "ISIC2018/ISIC2018_Task3_Training_GroundTruth", "GroundTruth.csv"),
        ("isic", "ISIC2018/ISIC2018_Task3_Training_Input/ISIC_0024306.jpg", "1 files missing .*06"),
        ("chestx", "ChestX/Data_Entry_2017.csv", "Data_Entry_2017.csv"),
        ("chestx", "ChestX/images_002", r"10 files missing \(00000001_001.png, .*, \.\.\.\)"),
        ("chestx", "ChestX", r"got nothing \(looked in .*ChestX.zip.*licence: free to use"),
    ],
)
def test_what_is_missing_is_named(name: str, removed: str, words: str, tmp_path: Path) -> None:
    SETS[name][0](tmp_path)
    gone = tmp_path / removed
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(MissingDataError, match=words):
        load(name, tmp_path)
    assert not status_of(name, tmp_path).complete


def test_the_columns_of_isic_say_the_class_in_any_order(tmp_path: Path) -> None:
    write_isic(tmp_path)
    expected = load("isic", tmp_path)
    folder = tmp_path / "ISIC2018"
    [table] = folder.rglob("*.csv")
    rows = [row.split(",") for row in table.read_text().split()]
    table.write_text("\n".join(",".join([row[0], *row[:0:-1]]) for row in rows))
    assert np.array_equal(load("isic", tmp_path).images, expected.images)
    with Image.open(folder / "ISIC2018_Task3_Training_Input" / "ISIC_0024307.jpg") as image:
        squeezed = image.resize((8, 8), Image.Resampling.LANCZOS)
    assert np.array_equal(expected.images[expected.starts[1]], np.asarray(squeezed))
    table.write_text("\n".join(",".join(row[:-1]) for row in rows))
    with pytest.raises(
        ValueError, match=r"as its publisher made it, got ISIC2018.*KeyError: 'VASC'"
    ):
        load("isic", tmp_path)
