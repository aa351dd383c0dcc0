"""Image data sets by declaration: where the files are, which class each is of, and the splits.

A data set is an `ImageSet` with a list of classes for each split; what is done with it (finding,
decoding, caching, describing) is here, the same for all.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmeta.tasks.archives import decode_images, list_files
from dmeta.tasks.classes import make_starts
from dmeta.tasks.data_root import DistantFile, find_distant, resolve_root
from dmeta.tasks.image_cache import DecodedImages, load_decoded
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.pixels import to_square
from dmeta.tasks.rotations import with_rotations
from dmeta.tasks.source import SPLITS, Split
from dmeta.tasks.status import DataSetStatus, MissingDataError

_LISTS = Path(__file__).parent / "datasets" / "splits"

SplitClasses = Mapping[Split, Sequence[str]]


@dataclass(frozen=True)
class ImageSet:
    """Where the files of a data set are, and what they show.

    Attributes:
        name: in the registry.
        title: for people.
        places: below the data root, relative: zips and folders, of which the first that is there is
            read.
        class_of: pattern that is searched in a file's name (``/`` before it), whose group ``class``
            is its class; files without a match are not of the data set.
        images_per_class: of every class; None: any number.
        how_to_get: what to do if it is not there.
    """

    name: str
    title: str
    places: tuple[str, ...]
    class_of: re.Pattern[str]
    images_per_class: int | None
    how_to_get: str


def split_list(name: str) -> dict[Split, list[str]]:
    """The classes of each split, from a list that is part of dmeta.

    Args:
        name: of the list, such as ``cub``.
    """
    found: dict[Split, list[str]] = json.loads((_LISTS / f"{name}.json").read_text())
    return found


def load_image_set(
    declared: ImageSet, classes: SplitClasses, *, root: str | None, size: int, cache: bool
) -> ImageClasses:
    """Tasks of a data set in colour; each image is its middle square, resized (Lanczos).

    Args:
        declared: what the data set is.
        classes: split -> its classes.
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width in pixels.
        cache: keep the decoded images for the next run.

    Raises:
        MissingDataError: the data set, a class or an image of it is not there.
        ValueError: a file is damaged.
    """
    folder = resolve_root(root, declared.title, [_archives(declared)])
    path = _find(declared, folder)
    if path is None:
        places = [folder / place for place in declared.places]
        raise MissingDataError(declared.title, "nothing", places, declared.how_to_get)
    files = _files(declared, path)
    if lacking := _lacking(declared, files, classes):
        raise MissingDataError(declared.title, lacking[0], [path], declared.how_to_get)
    names = sorted(name for own in classes.values() for name in own)
    decoded = load_decoded(
        declared.name,
        f"{size}x{size} rgb middle lanczos {len(names)} classes v1",
        [path],
        lambda: _decode(path, {name: files[name] for name in names}, size),
        use_cache=cache,
    )
    members = {s: [c for c, n in enumerate(decoded.class_names) if n in set(classes[s])] for s in SPLITS}  # noqa: E501  # fmt: skip
    splits = with_rotations(members, dict.fromkeys(SPLITS, "none"))
    return ImageClasses(decoded.images, decoded.class_names, decoded.starts, *splits)


def _archives(declared: ImageSet) -> list[str]:
    return [place for place in declared.places if place.endswith(".zip")]


def _find(declared: ImageSet, root: Path) -> Path | None:
    return next((root / place for place in declared.places if (root / place).exists()), None)


def _files(declared: ImageSet, path: Path) -> dict[str, list[str]]:
    """Class -> its files, both sorted."""
    found: dict[str, list[str]] = {}
    for name in list_files(path):
        if match := declared.class_of.search(f"/{name}"):
            found.setdefault(match["class"], []).append(name)
    return dict(sorted(found.items()))


def _lacking(
    declared: ImageSet, files: Mapping[str, Sequence[str]], classes: SplitClasses
) -> list[str]:
    """What is not there, in words."""
    names = [name for own in classes.values() for name in own]
    missing = sorted(set(names) - set(files))
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        return [f"{len(missing)} of {len(names)} classes missing ({', '.join(missing[:3])}{more})"]
    count = declared.images_per_class
    return [
        f"{len(files[name])} of {count} images of class {name}"
        for name in sorted(names)
        if count is not None and len(files[name]) != count
    ][:1]


def _decode(path: Path, files: Mapping[str, Sequence[str]], size: int) -> DecodedImages:
    names = [file for own in files.values() for file in own]
    images = np.empty((len(names), size, size, 3), dtype=np.uint8)
    square = functools.partial(to_square, side=size, channels=3)
    decode_images(path, names, square, images)
    return DecodedImages(images, tuple(files), make_starts([len(own) for own in files.values()]))


def image_set_status(declared: ImageSet, classes: SplitClasses, root: Path) -> DataSetStatus:
    """What of a data set lies under `root`; lists files, decodes none."""
    path = _find(declared, root)
    files: dict[str, list[str]] = {}
    missing = ["nothing of it is there"]
    if path is not None:
        try:
            files = _files(declared, path)
            missing = _lacking(declared, files, classes)
        except ValueError as error:
            missing = [str(error)]
    count = sum(map(len, files.values()))
    return DataSetStatus(
        name=declared.name,
        needs_data=True,
        complete=not missing,
        where=tuple(map(str, [path] if path else [root / place for place in declared.places])),
        found=f"{len(files)} classes, {count:,} images" if files else "nothing",
        missing=tuple(missing),
        how_to_get="" if not missing else declared.how_to_get,
    )


def distant_image_set(declared: ImageSet, root: str) -> list[tuple[str, DistantFile | None]]:
    """Its archive below a URL, and whether it is there."""
    archives = _archives(declared)
    [found] = find_distant(root, [archives])
    return [(archives[0], found)]
