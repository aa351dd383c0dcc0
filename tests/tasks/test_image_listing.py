from __future__ import annotations

from pathlib import Path

import pytest

from dmeta.tasks.image_listing import images_in_folders, images_in_table
from tests.tasks.conftest import zip_tree


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not read")
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_the_folder_is_the_label(tmp_path: Path, zipped: bool) -> None:
    path = write(
        tmp_path / "set", "b/1.JPG", "a/2.png", "a/1.jpeg", "a/notes.txt", "LICENSE", "c/d/3.tiff",
        ".hidden/x.png",
    )  # fmt: skip
    if zipped:
        path = zip_tree(path, tmp_path / "set.zip", reverse=True)
    assert images_in_folders(path) == [
        ("a/1.jpeg", "a", None), ("a/2.png", "a", None), ("b/1.JPG", "b", None),
        ("c/d/3.tiff", "c/d", None),
    ]  # fmt: skip


def test_folders_may_be_those_of_splits(tmp_path: Path) -> None:
    path = write(tmp_path, "Train/a/1.png", "test/a/2.png", "valid/b/3.png", "train/a/0.png")
    assert images_in_folders(path) == [
        ("Train/a/1.png", "a", "train"), ("train/a/0.png", "a", "train"),
        ("test/a/2.png", "a", "test"), ("valid/b/3.png", "b", "val"),
    ]  # fmt: skip
    write(path, "other/a/1.png")  # then they are classes, too
    assert {image.label for image in images_in_folders(path)} == {
        "Train/a", "test/a", "valid/b", "train/a", "other/a",
    }  # fmt: skip


def test_a_picture_in_no_class_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.root must have images .*with no image"):
        images_in_folders(write(tmp_path / "none", "a/notes.txt"))
    with pytest.raises(ValueError, match=r"folder named after its class \(<class>/1\.png\)"):
        images_in_folders(write(tmp_path / "flat", "1.png", "a/2.png"))
    with pytest.raises(ValueError, match=r"after its class \(train/<class>/1\.png\), got 'train/1"):
        images_in_folders(write(tmp_path / "split", "train/1.png", "test/a/2.png"))


def test_a_table_names_path_label_and_split(tmp_path: Path) -> None:
    path = write(tmp_path / "pictures", "1.png", "x/2.jpg", "3.png", "unnamed.png")
    table = tmp_path / "labels.csv"
    table.write_text(
        "label,path,split\ncat,1.png,train\ndog,.\\x\\2.jpg,Validation\ncat,3.png,test\n"
    )
    assert images_in_table(path, table) == [
        ("1.png", "cat", "train"), ("3.png", "cat", "test"), ("x/2.jpg", "dog", "val"),
    ]  # fmt: skip


WRONG = {
    "an image that is not there": ("path,label\n9.png,a\n", r"got '9\.png' in line 2, which"),
    "a path out of the folder": ("path,label\n../1.png,a\n", r"got '\.\./1\.png' in line 2, which"),
    "an image twice": ("path,label\n1.png,a\n\n1.png,b\n", r"got '1\.png' again in line 4"),
    "an unknown split": ("path,label,split\n1.png,a,dev\n", r"got 'dev' in line 2 of"),
    "no label": ("path,class\n1.png,a\n", r"must have the columns path, label"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_table_is_refused(tmp_path: Path, what: str) -> None:
    path = write(tmp_path / "pictures", "1.png")
    text, message = WRONG[what]
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        images_in_table(path, tmp_path / "labels.csv")
