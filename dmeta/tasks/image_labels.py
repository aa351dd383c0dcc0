"""Which images a data set has and which class each is of: by their names, or by a table.

For `dmeta.tasks.image_set.ImageSet`. Reads names and tables only, no image.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from dmeta.tasks.archives import Box, read_texts


class ImageLabel(NamedTuple):
    """One image of a data set.

    Attributes:
        label: its class.
        file: its name below the folder or zip.
        box: the part of the file that shows it; None: all.
    """

    label: str
    file: str
    box: Box | None = None


class Listing(NamedTuple):
    """The images of a data set.

    Attributes:
        images: those that are there.
        missing: names of files that should be there and are not.
    """

    images: list[ImageLabel]
    missing: list[str]


FindImages: TypeAlias = Callable[[Path, Sequence[str]], Listing]
"""A folder or zip and the names of its files -> what of a data set it has."""


def by_name(pattern: str, names: Mapping[str, str] | None = None) -> FindImages:
    """Labels from the names of the files.

    Args:
        pattern: is searched in a file's name (``/`` before it); its group ``class`` is the label.
            Files without a match are not of the data set.
        names: label in the name -> label; None: they are the same.
    """
    wanted = re.compile(pattern)

    def find(_: Path, files: Sequence[str]) -> Listing:
        matches = ((file, wanted.search(f"/{file}")) for file in files)
        found = [(match["class"], file) for file, match in matches if match]
        if names is None:
            return Listing([ImageLabel(label, file) for label, file in found], [])
        return Listing([ImageLabel(names[c], file) for c, file in found if c in names], [])

    return find


def by_table(
    table: str,
    image_of: Callable[[Mapping[str, str]], str | None],
    label_of: Callable[[Mapping[str, str]], str | None],
) -> FindImages:
    """Labels from a csv file.

    Args:
        table: its name, wherever it lies.
        image_of: row (column -> cell) -> name of its image, wherever that lies.
        label_of: row -> label; None: the image is not of the data set.

    Raises:
        ValueError: (when called) the table lacks a column.
    """

    def find(path: Path, files: Sequence[str]) -> Listing:
        texts, missing = read_tables(path, files, [table])
        if missing:
            return Listing([], missing)
        rows = csv.DictReader(io.StringIO(texts[0]))
        try:
            labels = [(image_of(row), label_of(row)) for row in rows]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise wrong_table(path, table, f"({error})") from error
        return with_files(
            files, [ImageLabel(label, image) for image, label in labels if image and label]
        )

    return find


def read_tables(
    path: Path, files: Sequence[str], tables: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The texts of tables, wherever they lie, and the names of those that are not there."""
    places = {file.rpartition("/")[2]: file for file in files}
    missing = [table for table in tables if table not in places]
    return (read_texts(path, [places[table] for table in tables]) if not missing else []), missing


def with_files(files: Sequence[str], images: Iterable[ImageLabel]) -> Listing:
    """Images whose `file` is the end of a name, with the file that it is; or as missing."""
    places: dict[str, list[str]] = {}
    for file in files:
        places.setdefault(file.rpartition("/")[2], []).append(file)
    found, missing = [], set()
    for image in images:
        there = places.get(image.file.rpartition("/")[2], [])
        place = next((file for file in there if f"/{file}".endswith(f"/{image.file}")), None)
        if place is None:
            missing.add(image.file)
        else:
            found.append(image._replace(file=place))
    return Listing(sorted(found, key=_order), sorted(missing))


def _order(image: ImageLabel) -> tuple[str, str, Box]:
    return image.label, image.file, image.box or (0, 0, 0, 0)


def wrong_table(path: Path, table: str, got: str) -> ValueError:
    """The error that a table is not the data set's own."""
    return ValueError(
        f"a data set's table must be as its publisher made it, got {table} in {path} {got}; "
        "download it again"
    )
