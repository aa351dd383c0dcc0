"""Which images a folder or a zip has, with their labels and splits: by class folders, or by a csv.

Reads names and the csv file only, no image. A label is the name of the folder that an image is in,
below the root (``cat``, ``Greek/character01``), or what the csv file says.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dmeta.tasks.archives import list_files, read_texts
from dmeta.tasks.source import SPLITS, Split

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Endings of the names of images; files with other ones are not read."""

_SPLIT_FOLDERS: Mapping[str, Split] = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip

_COLUMNS = ("path", "label")
_SPLIT_COLUMN = "split"
_SEPARATORS = (",", ";", "\t")
_MAX_CELL = 2000  # characters; csv.reader would take a file without line ends as one cell


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
    in_splits = {name.partition("/")[0].lower() for name in files} <= set(_SPLIT_FOLDERS)
    return _sorted(_by_folder(path, name, in_splits) for name in files)


def images_in_table(path: Path, table: Path) -> list[LabelledImage]:
    """The images that a csv file names: columns ``path``, ``label`` and, if given, ``split``.

    Args:
        path: a folder or a zip; the paths are below it.
        table: the csv file, UTF-8; its columns are separated by comma, semicolon or tab.

    Returns:
        sorted by label, split and file.

    Raises:
        ValueError: the file is no such table, or names an image that is not there, or twice.
    """
    there = set(list_files(path))
    found: dict[str, LabelledImage] = {}
    for line, image in _rows(table):
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
    if not found:
        raise ValueError(f"{table} must have at least one row, got none; add the images")
    return _sorted(found.values())


def _sorted(images: Iterable[LabelledImage]) -> list[LabelledImage]:
    def key(image: LabelledImage) -> tuple[str, int, str]:
        place = -1 if image.split is None else SPLITS.index(image.split)
        return image.label, place, image.file

    return sorted(images, key=key)


def _by_folder(path: Path, name: str, in_splits: bool) -> LabelledImage:
    folder, _, file = name.rpartition("/")
    first, _, rest = folder.partition("/")
    split = _SPLIT_FOLDERS[first.lower()] if in_splits else None
    label = rest if in_splits else folder
    if not label:
        inside = f"{first}/<class>" if in_splits else "<class>"
        raise ValueError(
            f"every image must be in a folder named after its class ({inside}/{file}), got "
            f"{name!r} in {path}; move it, or name the labels in a csv file (task.file)"
        )
    return LabelledImage(name, label, split)


def _rows(table: Path) -> Iterator[tuple[int, LabelledImage]]:
    """Line number and image of every row."""
    text = read_texts(table.parent, [table.name])[0]
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _columns(table, cells)
            else:
                yield reader.line_num, _image(table, reader.line_num, columns, cells)
    except csv.Error as error:
        raise ValueError(
            f"{table} must be a csv file, got line {reader.line_num} that is none ({error}); "
            "save it as csv again"
        ) from None
    if not columns:
        _columns(table, [])


def _columns(table: Path, cells: list[str]) -> list[str]:
    columns = [cell.strip().lower() for cell in cells]
    if any(columns.count(name) != 1 for name in _COLUMNS) or columns.count(_SPLIT_COLUMN) > 1:
        got = ", ".join(cell[:40] for cell in cells[:8]) or "nothing"
        raise ValueError(
            f"the first line of {table} must name the columns path and label (and split, if it "
            f"is given), each once, got {got}; rename the columns"
        )
    return columns


def _image(table: Path, line: int, columns: list[str], cells: list[str]) -> LabelledImage:
    if len(cells) != len(columns):
        raise ValueError(
            f"every line of {table} must have {len(columns)} cells, got {len(cells)} in line "
            f"{line}; quote cells with a separator in them"
        )
    row = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    for name in _COLUMNS:
        if not row[name] or len(row[name]) > _MAX_CELL:
            raise ValueError(
                f"column {name} of {table} must have 1 to {_MAX_CELL} characters, got "
                f"{len(row[name])} in line {line}; fill it in"
            )
    file = row["path"].replace("\\", "/").removeprefix("./")
    return LabelledImage(file, row["label"], _split(table, line, row.get(_SPLIT_COLUMN)))


def _split(table: Path, line: int, name: str | None) -> Split | None:
    if name is None:
        return None
    if name.lower() not in _SPLIT_FOLDERS:
        raise ValueError(
            f"column split of {table} must be one of {', '.join(SPLITS)}, got {name!r} in line "
            f"{line}; correct it, or remove the column"
        )
    return _SPLIT_FOLDERS[name.lower()]
