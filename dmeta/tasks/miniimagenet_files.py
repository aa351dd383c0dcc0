"""Which image files miniImageNet has: by csv files, or by class folders. Nothing is decoded here.

``train.csv``, ``val.csv`` and ``test.csv`` (Ravi & Larochelle 2017) have the columns
filename,label: images that they do not name are not read. Class folders are ``train/<class>/*``,
``val/...`` and ``test/...``.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from dmeta.tasks.archives import read_texts
from dmeta.tasks.class_splits import SPLIT_NAMES
from dmeta.tasks.source import SPLITS, Split

_IN_FOLDERS = re.compile(
    r"/(?P<split>train|val|valid|validation|test)/(?P<class>[^/]+)/[^/]+\.(?:jpe?g|JPE?G|png|PNG)$"
)


def match_folders(path: Path, files: tuple[str, ...]) -> dict[Split, dict[str, list[str]]]:
    """Split -> label -> its image files, by the names of the folders that they are in.

    Raises:
        ValueError: two splits share a class.
    """
    classes: dict[Split, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for file in files:
        if match := _IN_FOLDERS.search(f"/{file}"):
            own = classes[SPLIT_NAMES[match["split"]]]
            own.setdefault(match["class"], []).append(file)
    for one, other in itertools.combinations(SPLITS, 2):
        if both := sorted(classes[one].keys() & classes[other].keys()):
            raise ValueError(
                f"the splits must be disjoint, got a folder {both[0]!r} in {one} and in {other} of "
                f"{path}; use the split of Ravi & Larochelle"
            )
    return classes


def match_tables(
    path: Path, files: tuple[str, ...]
) -> tuple[dict[Split, dict[str, list[str]]], list[str]]:
    """Split -> label -> its image files (labels and files sorted), and what is not there.

    Raises:
        ValueError: a csv file is malformed, names an image twice, shares a class with another, or
            names an image that may be one of several files.
    """
    by_basename: dict[str, list[str]] = {}
    for name in files:
        by_basename.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    classes: dict[Split, dict[str, list[str]]] = {split: {} for split in SPLITS}
    missing: list[str] = []
    owner: dict[str, str] = {}
    found = {s: _only(path, f"{s}.csv", by_basename.get(f"{s}.csv", [])) for s in SPLITS}
    tables = {split: where for split, where in found.items() if where is not None}
    missing += [f"{split}.csv" for split in SPLITS if split not in tables]
    texts = read_texts(path, list(tables.values()))
    for (split, where), text in zip(tables.items(), texts, strict=True):
        table = f"{split}.csv"
        for filename, label in _parse_table(path, table, text):
            image = _image(path, where, filename, label, by_basename)
            _check_owners(path, owner, table, label, filename, image)
            if image is None:
                missing.append(filename)
            else:
                classes[split].setdefault(label, []).append(image)
    ordered = {
        split: {label: sorted(images) for label, images in members.items()}
        for split, members in classes.items()
    }
    return ordered, sorted(missing, key=lambda name: not name.endswith(".csv"))


def _only(path: Path, name: str, found: list[str]) -> str | None:
    """The only file that is meant by a name; None if there is none.

    Raises:
        ValueError: there are several.
    """
    if len(found) > 1:
        raise ValueError(
            f"a name must mean one file, got {name!r} in {path}, which may be "
            f"{' or '.join(map(repr, sorted(found)[:3]))}; remove all but one, or name it with its "
            "folder in the csv file"
        )
    return found[0] if found else None


def _image(
    path: Path, table: str, filename: str, label: str, by_basename: Mapping[str, list[str]]
) -> str | None:
    """The file that a row of a csv file means; None if there is none.

    That is the one in ``images/`` next to the csv file or, in other trees, the only one of the
    name, or the only one of those in a folder that is called as the class.

    Raises:
        ValueError: several files may be meant.
    """
    named = f"/{filename}"
    found = [f for f in by_basename.get(named.rsplit("/", 1)[-1], []) if f"/{f}".endswith(named)]
    folder = table.rpartition("/")[0]
    for place in (f"{folder}/images{named}".lstrip("/"), f"{folder}{named}".lstrip("/")):
        if place in found:
            return place
    of_class = [file for file in found if f"/{file}".endswith(f"/{label}{named}")]
    return _only(path, filename, of_class if len(of_class) == 1 else found)


def _check_owners(
    path: Path, owner: dict[str, str], table: str, label: str, filename: str, image: str | None
) -> None:
    """Raises ValueError if a class or an image is in two splits, or an image is named twice."""
    image_key = f"image {image or filename}"
    if owner.setdefault(f"class {label}", table) != table or owner.get(image_key, table) != table:
        raise ValueError(
            f"the splits must be disjoint, got {label!r} ({filename}) in {table} and in "
            f"another csv file of {path}; use the csv files of Ravi & Larochelle"
        )
    if image_key in owner:
        raise ValueError(
            f"a csv file must name each image once, got {filename!r} of class {label!r} twice in "
            f"{table} of {path}; use the csv files of Ravi & Larochelle"
        )
    owner[image_key] = table


def _parse_table(path: Path, name: str, text: str) -> list[tuple[str, str]]:
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error:  # an endless field, say
        rows = []
    if len(rows) < 2 or rows[0] != ["filename", "label"] or any(len(r) not in (0, 2) for r in rows):
        raise ValueError(
            f"a split must be a csv file with the columns filename,label and at least one row, got "
            f"{name!r} in {path}; use the csv files of Ravi & Larochelle"
        )
    return [(row[0], row[1]) for row in rows[1:] if row]
