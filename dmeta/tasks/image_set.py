"""Image data sets by declaration: where the files are, which class each is of, and the splits.

A data set is an `ImageSet` with a list of classes for each split; what is done with it (finding,
decoding, caching, describing) is here, the same for all.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmeta.tasks.archives import decode_images, list_files
from dmeta.tasks.classes import make_starts
from dmeta.tasks.data_root import DistantFile, find_distant, resolve_root
from dmeta.tasks.image_cache import DecodedImages, load_decoded
from dmeta.tasks.image_labels import FindImages, ImageLabel
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.pixels import Fit, to_square
from dmeta.tasks.rotations import with_rotations
from dmeta.tasks.source import SPLITS, Split
from dmeta.tasks.status import DataSetStatus, MissingDataError

_LISTS = Path(__file__).parent / "datasets" / "splits"

SplitClasses = Mapping[Split, Sequence[str]]
"""The classes of each split."""

Images = Mapping[str, Sequence[ImageLabel]]
"""Class -> its images, both sorted."""


@dataclass(frozen=True)
class ImageSet:
    """Where the files of a data set are, and what they show.

    Attributes:
        name: in the registry.
        title: for people.
        places: below the data root, relative: zips and folders, of which the first that is there is
            read.
        find: which images a place has, and the class of each (`dmeta.tasks.image_labels`).
        images_per_class: of every class; None: any number.
        how_to_get: what to do if it is not there.
        licence: of the images, as its publisher states it.
        fit: how an image becomes a square: ``crop`` its middle, or ``stretch`` it.
        formats: of the images, as Pillow names them.
    """

    name: str
    title: str
    places: tuple[str, ...]
    find: FindImages
    images_per_class: int | None
    how_to_get: str
    licence: str
    fit: Fit = "crop"
    formats: tuple[str, ...] = ("PNG", "JPEG")

    @property
    def advice(self) -> str:
        """How to get it, and under which terms."""
        return f"{self.how_to_get} (licence: {self.licence})"


def split_list(name: str) -> dict[Split, list[str]]:
    """The classes of each split, from a list that is part of dmeta.

    Args:
        name: of the list, such as ``cub``.
    """
    found: dict[Split, list[str]] = json.loads((_LISTS / f"{name}.json").read_text())
    return found


def for_testing(*names: str) -> SplitClasses:
    """The classes of a data set that is for testing alone."""
    return {"train": [], "val": [], "test": names}


def load_image_set(
    declared: ImageSet, classes: SplitClasses | int, *, root: str | None, size: int, cache: bool
) -> ImageClasses:
    """Tasks of a data set in colour; each image becomes a square, resized (Lanczos).

    Args:
        declared: what the data set is.
        classes: split -> its classes; a number: all that there are, so many, are test classes.
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
        raise MissingDataError(declared.title, "nothing", places, declared.advice)
    images, missing = _look(declared, path)
    if lacking := _lacking(declared, images, missing, classes):
        raise MissingDataError(declared.title, lacking[0], [path], declared.advice)
    of_split = _of_splits(classes, images)
    names = sorted(name for own in of_split.values() for name in own)
    kind = "middle" if declared.fit == "crop" else declared.fit
    decoded = load_decoded(
        declared.name,
        f"{size}x{size} rgb {kind} lanczos {len(names)} classes v1",
        [path],
        lambda: _decode(declared, path, {name: images[name] for name in names}, size),
        use_cache=cache,
    )
    members = {s: [c for c, n in enumerate(decoded.class_names) if n in set(of_split[s])] for s in SPLITS}  # noqa: E501  # fmt: skip
    splits = with_rotations(members, dict.fromkeys(SPLITS, "none"))
    return ImageClasses(decoded.images, decoded.class_names, decoded.starts, *splits)


def _archives(declared: ImageSet) -> list[str]:
    return [place for place in declared.places if place.endswith(".zip")]


def _find(declared: ImageSet, root: Path) -> Path | None:
    return next((root / place for place in declared.places if (root / place).exists()), None)


def _look(declared: ImageSet, path: Path) -> tuple[Images, list[str]]:
    """The images, and names of files that are missing."""
    found = declared.find(path, list_files(path))
    images: dict[str, list[ImageLabel]] = {}
    for image in found.images:
        images.setdefault(image.label, []).append(image)
    return dict(sorted(images.items())), found.missing


def _of_splits(classes: SplitClasses | int, images: Images) -> SplitClasses:
    if isinstance(classes, int):
        return for_testing(*images)
    return classes


def _lacking(
    declared: ImageSet, images: Images, files: Sequence[str], classes: SplitClasses | int
) -> list[str]:
    """What is not there, in words."""
    if files:
        return [f"{len(files)} files missing ({_few(files)})"]
    names = [name for own in _of_splits(classes, images).values() for name in own]
    if isinstance(classes, int) and len(names) != classes:
        return [f"{len(names)} of {classes} classes"]
    if missing := sorted(set(names) - set(images)):
        return [f"{len(missing)} of {len(names)} classes missing ({_few(missing)})"]
    count = declared.images_per_class
    return [
        f"{len(images[name])} of {count} images of class {name}"
        for name in sorted(names)
        if count is not None and len(images[name]) != count
    ][:1]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _decode(declared: ImageSet, path: Path, images: Images, size: int) -> DecodedImages:
    listed = [image for own in images.values() for image in own]
    out = np.empty((len(listed), size, size, 3), dtype=np.uint8)
    square = functools.partial(to_square, side=size, channels=3, fit=declared.fit)
    files, boxes = [image.file for image in listed], [image.box for image in listed]
    decode_images(path, files, square, out, formats=declared.formats, boxes=boxes)
    return DecodedImages(out, tuple(images), make_starts([len(own) for own in images.values()]))


def image_set_status(declared: ImageSet, classes: SplitClasses | int, root: Path) -> DataSetStatus:
    """What of a data set lies under `root`; lists files, decodes none."""
    path = _find(declared, root)
    images: Images = {}
    missing = ["nothing of it is there"]
    if path is not None:
        try:
            images, files = _look(declared, path)
            missing = _lacking(declared, images, files, classes)
        except ValueError as error:
            missing = [str(error)]
    count = sum(map(len, images.values()))
    return DataSetStatus(
        name=declared.name,
        needs_data=True,
        complete=not missing,
        where=tuple(map(str, [path] if path else [root / place for place in declared.places])),
        found=f"{len(images)} classes, {count:,} images" if images else "nothing",
        missing=tuple(missing),
        how_to_get="" if not missing else declared.advice,
    )


def distant_image_set(declared: ImageSet, root: str) -> list[tuple[str, DistantFile | None]]:
    """Its archive below a URL, and whether it is there."""
    archives = _archives(declared)
    [found] = find_distant(root, [archives])
    return [(archives[0], found)]
