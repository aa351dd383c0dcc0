"""Few-shot tasks of your own pictures: a folder (or zip) with a folder for each class, or a csv.

Reads any common format of any size (see `dmeta.tasks.pixels`). Classes are split into train, val
and test by the folders or the csv, or by ratio from a seed.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from dmeta.addresses import is_address, local_path
from dmeta.tasks.archives import ByteArray, decode_images
from dmeta.tasks.class_splits import Division, Ratio, SplitBy, split_classes, warn_of_left_out
from dmeta.tasks.classes import make_starts
from dmeta.tasks.file_digest import check_digest
from dmeta.tasks.image_cache import DecodedImages, load_decoded
from dmeta.tasks.image_listing import LabelledImage, images_in_folders, images_in_table
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.pixels import Fit, to_square
from dmeta.tasks.rotations import Rotations, with_rotations
from dmeta.tasks.source import SPLITS, Split

_UNREADABLE = "pictures that cannot be read"
_REPEATED = "pictures that are the same as another"
_SMALL = "classes with fewer pictures than task.min_per_class"

_FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")


def load_image_folder(
    *,
    root: str = "",
    file: str | None = None,
    size: PositiveInt = 84,
    channels: Literal[1, 3] = 3,
    fit: Fit = "crop",
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    rotations: Rotations = "none",
    min_per_class: PositiveInt = 1,
    skip_unreadable: bool = False,
    cache: bool = True,
    sha256: str | None = None,
) -> ImageClasses:
    """Tasks of the pictures of a folder or zip.

    The same picture twice in a class counts once. One that is in several classes is left out of
    all of them.

    Args:
        root: the folder or zip, with ``<class>/*``, or ``train/<class>/*``, ``val/...`` and
            ``test/...``, or anything that `file` names.
        file: a csv file with columns path (below `root`), label and, if splits are given, split;
            None: labels are the names of the folders.
        size: height and width in pixels that pictures are brought to.
        channels: 3 (colour) or 1 (grey).
        fit: how a picture becomes square: ``crop`` its middle, or ``stretch`` it.
        split_by: ``class``: a class is in one split alone, so that test tasks have new classes;
            ``example``: the pictures of each class are divided, and test tasks have the classes
            of training.
        split_ratio: shares of train, val and test, where neither folders nor csv file say which
            split a class is in.
        split_seed: of that division.
        rotations: ``classes``: a class turned by 90, 180 or 270 degrees is another class;
            ``per_task``: each class of a task is turned at random; ``none``.
        min_per_class: classes with fewer pictures are left out.
        skip_unreadable: leave out pictures that cannot be read, instead of stopping.
        cache: keep the decoded pictures for the next run, in DMETA_CACHE (``~/.cache/dmeta``).
        sha256: check sum that the pictures and their labels must have; None: any. A run notes it.

    Raises:
        ValueError: a file cannot be read, a picture has no label, or a split has no class.
    """
    division = Division(split_by, split_ratio, split_seed)
    division.check()
    path = _existing(root, "task.root", "the folder or zip with the pictures")
    table = None if file is None else _existing(file, "task.file", "a csv file")
    listed = images_in_folders(path) if table is None else images_in_table(path, table)
    decoded = load_decoded(
        "image-folder",
        f"{size}x{size}x{channels} {fit} {_digest(listed)} {skip_unreadable} v1",
        [path],
        lambda: _decode(path, listed, size, channels, fit, skip_unreadable),
        use_cache=cache,
    )
    found = split_classes(*_labels_and_splits(decoded), division, min_per_class)
    warn_of_left_out(path, {**decoded.left_out, _SMALL: found.left_out})
    images = decoded.images
    if not np.array_equal(found.rows, np.arange(len(images))):
        images = images[found.rows]
    digest = _digest_of(decoded)
    must = "task.root must have the pictures and labels that the run was begun with"
    check_digest(digest, sha256, must, path)
    splits = with_rotations(found.splits, dict.fromkeys(SPLITS, rotations))
    return ImageClasses(images, found.class_names, found.starts, *splits, sha256=digest)


def _existing(value: str, key: str, what: str) -> Path:
    if not value:
        raise ValueError(f"{key} must be {what}, got nothing; set {key}=PATH")
    if is_address(value):
        raise ValueError(f"{key} must be on this machine, got {value}; copy it here first")
    path = local_path(value)
    if not path.exists():
        raise ValueError(f"{key} must be {what}, got {path}, which does not exist; correct it")
    return path


def _digest(listed: Sequence[LabelledImage]) -> str:
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _decode(
    path: Path,
    listed: Sequence[LabelledImage],
    size: int,
    channels: int,
    fit: Fit,
    skip_unreadable: bool,
) -> DecodedImages:
    """The pictures that are used, by label and split (which are the class's name, as JSON)."""
    shape = (size, size) if channels == 1 else (size, size, channels)
    images = np.empty((len(listed), *shape), dtype=np.uint8)
    unreadable: list[int] | None = [] if skip_unreadable else None
    files = [image.file for image in listed]
    square = functools.partial(to_square, side=size, channels=channels, fit=fit)
    decode_images(path, files, square, images, formats=_FORMATS, unreadable=unreadable)
    bad = set(unreadable or ())
    used, repeated = _without_repeats(listed, images, bad)
    names = Counter(json.dumps(listed[row][1:]) for row in used)
    left_out = {_UNREADABLE: sorted(files[row] for row in bad), _REPEATED: repeated}
    return DecodedImages(images[used], tuple(names), make_starts(list(names.values())), left_out)


def _without_repeats(
    listed: Sequence[LabelledImage], images: ByteArray, unreadable: set[int]
) -> tuple[list[int], list[str]]:
    """Rows of pictures that can be read, and files of those that are there in another file.

    Of equal pictures the first is used, or none if their labels differ.
    """
    same: dict[bytes, list[int]] = {}
    for row in range(len(listed)):
        if row not in unreadable:
            content = hashlib.blake2b(images[row].tobytes(), digest_size=16).digest()
            same.setdefault(content, []).append(row)
    used, repeated = [], []
    for rows in same.values():
        is_one_class = len({listed[row].label for row in rows}) == 1
        used += rows[:1] if is_one_class else []
        repeated += [listed[row].file for row in (rows[1:] if is_one_class else rows)]
    return sorted(used), sorted(repeated)


def _digest_of(decoded: DecodedImages) -> str:
    digest = hashlib.sha256(json.dumps([decoded.class_names, decoded.starts.tolist()]).encode())
    digest.update(np.ascontiguousarray(decoded.images).data)
    return digest.hexdigest()


def _labels_and_splits(decoded: DecodedImages) -> tuple[list[str], list[Split | None]]:
    """Of each image."""
    labels: list[str] = []
    splits: list[Split | None] = []
    for name, count in zip(decoded.class_names, np.diff(decoded.starts).tolist(), strict=True):
        label, split = json.loads(name)
        labels += [label] * count
        splits += [split] * count
    return labels, splits
