"""Which images a folder or a zip has, with their labels and splits: by class folders, or by a csv.

Reads names and the csv file only, no image. A label is the name of the folder that an image is in,
below the root (``cat``, ``Greek/character01``), or what the csv file says.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dmeta.tasks.archives import list_files
from dmeta.tasks.class_splits import SPLIT_NAMES, given_split
from dmeta.tasks.source import SPLITS, Split
from dmeta.tasks.table_files import read_table

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Endings of the names of images; files with other ones are not read."""


class LabelledImage(NamedTuple):
    """One image.

    Attributes:
        file: its name below the root.
        label: of its class.
        split: that it is in; None: not said.
    """

    file: str
    label: str
    split: Split | None


def images_in_folders(path: Path) -> list[LabelledImage]:
    """The images of ``<class>/*``, or of ``train/<class>/*``, ``val/...`` and ``test/...``.

    Args:
        path: a folder or a zip.

    Returns:
        sorted by label, split and file.

    Raises:
        ValueError: there is no image, or one that is in no class folder.
    """
    files = [name for name in list_files(path) if name.lower().endswith(SUFFIXES)]
    if not files:
        raise ValueError(
            f"task.root must have images ({', '.join(SUFFIXES)}) in folders named after their "
            f"classes, got {path} with no image; correct it"
        )
    in_splits = {name.partition("/")[0].lower() for name in files} <= set(SPLIT_NAMES)
    return _sorted(_by_folder(path, name, in_splits) for name in files)


def images_in_table(path: Path, table: Path) -> list[LabelledImage]:
    """The images that a csv file names: columns ``path``, ``label`` and, if given, ``split``.

    Args:
        path: a folder or a zip; the paths are below it.
        table: see `dmeta.tasks.table_files.read_table`.

    Returns:
        sorted by label, split and file.

    Raises:
        ValueError: the file is no such table, or names an image that is not there, or twice.
    """
    there = set(list_files(path))
    found: dict[str, LabelledImage] = {}
    for line, cells in read_table(table, ("path", "label"), ("split",)):
        file = cells["path"].replace("\\", "/").removeprefix("./")
        image = LabelledImage(file, cells["label"], given_split(table, line, cells))
        if image.file not in there:
            raise ValueError(
                f"column path of {table} must name files below task.root, got {image.file!r} in "
                f"line {line}, which {path} does not have; correct it"
            )
        if image.file in found:
            raise ValueError(
                f"{table} must name each image once, got {image.file!r} again in line {line}; "
                "remove one of the two lines"
            )
        found[image.file] = image
    return _sorted(found.values())


def _sorted(images: Iterable[LabelledImage]) -> list[LabelledImage]:
    def key(image: LabelledImage) -> tuple[str, int, str]:
        place = -1 if image.split is None else SPLITS.index(image.split)
        return image.label, place, image.file

    return sorted(images, key=key)


def _by_folder(path: Path, name: str, in_splits: bool) -> LabelledImage:
    folder, _, file = name.rpartition("/")
    first, _, rest = folder.partition("/")
    split = SPLIT_NAMES[first.lower()] if in_splits else None
    label = rest if in_splits else folder
    if not label:
        inside = f"{first}/<class>" if in_splits else "<class>"
        raise ValueError(
            f"every image must be in a folder named after its class ({inside}/{file}), got "
            f"{name!r} in {path}; move it, or name the labels in a csv file (task.file)"
        )
    return LabelledImage(name, label, split)
