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

from dmeta.tasks.archives import Box, read_files


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


def by_tables(
    tables: Sequence[str], parse: Callable[[Sequence[bytes]], Iterable[ImageLabel]]
) -> FindImages:
    """Labels from files that name the images.

    Args:
        tables: names of these files, wherever they lie.
        parse: their contents -> the images, whose `file` is the end of a name; raises KeyError,
            TypeError or ValueError if they are not as their publisher made them, ImportError
            (with what to install) if it lacks a package.
    """

    def find(path: Path, files: Sequence[str]) -> Listing:
        places = {file.rpartition("/")[2]: file for file in files}
        if missing := [table for table in tables if table not in places]:
            return Listing([], missing)
        contents = read_files(path, [places[table] for table in tables])
        try:
            images = list(parse(contents))
        except ImportError as error:
            raise ValueError(str(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"a data set's table must be as its publisher made it, got {' or '.join(tables)} "
                f"in {path} with an error ({type(error).__name__}: {error}); download it again"
            ) from error
        return _with_files(files, images)

    return find


def by_csv(
    table: str,
    image_of: Callable[[Mapping[str, str]], str],
    label_of: Callable[[Mapping[str, str]], str | None],
) -> FindImages:
    """Labels from a csv file.

    Args:
        table: its name, wherever it lies.
        image_of: row (column -> cell) -> the end of the name of its image.
        label_of: row -> label; None: the image is not of the data set.
    """

    def parse(contents: Sequence[bytes]) -> list[ImageLabel]:
        try:
            rows = list(csv.DictReader(io.StringIO(contents[0].decode("utf-8-sig"))))
        except csv.Error as error:
            raise ValueError(error) from error
        labels = [(label_of(row), image_of(row)) for row in rows]
        return [ImageLabel(label, image) for label, image in labels if label is not None]

    return by_tables([table], parse)


def _with_files(files: Sequence[str], images: Iterable[ImageLabel]) -> Listing:
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
