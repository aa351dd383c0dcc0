"""miniImageNet: 100 classes of ImageNet, 84x84 colour (Vinyals et al. 2016, arXiv:1606.04080).

Reads the split of Ravi & Larochelle 2017 (64/16/20 classes) in any of the forms in which it is
passed on, from the folder ``mini-imagenet/`` or (but for the pickles) from
``mini-imagenet/mini-imagenet.zip``:

- ``train.csv``, ``val.csv`` and ``test.csv`` and the JPEGs that they name; where they are there,
  they are what is read;
- the pickle caches ``mini-imagenet-cache-{train,val,test}.pkl``;
- class folders, ``train/<class>/*.jpg``, ``val/...`` and ``test/...``.

A class may have any number of images. There is no download: ImageNet's terms do not allow to pass
the images on.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmeta.tasks.archives import decode_images, list_files
from dmeta.tasks.classes import make_starts
from dmeta.tasks.data_root import DistantFile, find_distant, resolve_root
from dmeta.tasks.image_cache import DecodedImages, load_decoded
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.miniimagenet_files import match_folders, match_tables
from dmeta.tasks.miniimagenet_pickles import cache_name, read_caches
from dmeta.tasks.pixels import to_square
from dmeta.tasks.rotations import with_rotations
from dmeta.tasks.source import SPLITS, Split
from dmeta.tasks.status import DataSetStatus, MissingDataError

MINIIMAGENET_SIDE = 84

MINIIMAGENET_ARCHIVES = (("mini-imagenet/mini-imagenet.zip",),)
"""What is read of a data root that is an address."""

HOW_TO_GET_MINIIMAGENET = (
    "place train.csv, val.csv, test.csv (Ravi & Larochelle; columns filename,label) and the images "
    "in mini-imagenet/images/ under the data root (DMETA_DATA or task.root), or class folders "
    "train/<class>/*.jpg, val/..., test/..., or either of them in mini-imagenet/mini-imagenet.zip, "
    "or mini-imagenet-cache-{train,val,test}.pkl in mini-imagenet/; there is no free download, "
    "ImageNet's terms forbid it (research only)"
)


def load_miniimagenet(*, root: str | None = None, cache: bool = True) -> ImageClasses:
    """Tasks of miniImageNet (about 1.3 GB of memory for the full 60,000 images).

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a csv file, an image that one names, a pickle or a split is not there.
        ValueError: a file is damaged, or a class is in two splits.
    """
    folder = resolve_root(root, "miniImageNet", MINIIMAGENET_ARCHIVES)
    path = _find(folder)
    if path is None:
        raise MissingDataError("miniImageNet", "nothing", _places(folder), HOW_TO_GET_MINIIMAGENET)
    found = _match(path)
    if found.missing:
        lacking = _summarise(found.missing)
        raise MissingDataError("miniImageNet", lacking, [path], HOW_TO_GET_MINIIMAGENET)
    if found.classes is None:
        return _from_caches(path, cache)
    classes = found.classes
    split_of = {label: split for split, members in classes.items() for label in members}
    decoded = load_decoded(
        "mini-imagenet",
        f"{MINIIMAGENET_SIDE}x{MINIIMAGENET_SIDE} rgb v2",
        [path],
        lambda: _decode(path, {label: classes[split][label] for label, split in split_of.items()}),
        use_cache=cache,
    )
    return _source(decoded, [(name, split_of[name]) for name in decoded.class_names])


def _from_caches(folder: Path, cache: bool) -> ImageClasses:
    decoded = load_decoded(
        "mini-imagenet",
        f"{MINIIMAGENET_SIDE}x{MINIIMAGENET_SIDE} rgb pickles v1",
        [folder / cache_name(split) for split in SPLITS],
        lambda: read_caches(folder, MINIIMAGENET_SIDE),
        use_cache=cache,
    )
    return _source(
        decoded, [(label, split) for label, split in map(json.loads, decoded.class_names)]
    )


def _source(decoded: DecodedImages, classes: Sequence[tuple[str, Split]]) -> ImageClasses:
    """The source of images whose classes, in order, have these names and splits."""
    members = {s: [c for c, (_, split) in enumerate(classes) if split == s] for s in SPLITS}
    unturned = with_rotations(members, dict.fromkeys(SPLITS, "none"))
    names = tuple(name for name, _ in classes)
    return ImageClasses(decoded.images, names, decoded.starts, *unturned)


class _Found(NamedTuple):
    """What of the data set is there.

    Attributes:
        classes: split -> label -> its image files (both sorted); None: they are in pickles.
        missing: files that are not there.
    """

    classes: Mapping[Split, Mapping[str, list[str]]] | None
    missing: list[str]


def _match(path: Path) -> _Found:
    """Which form is there, and what of it.

    Raises:
        ValueError: see `match_tables` and `match_folders`.
    """
    files = list_files(path)
    names = {file.rpartition("/")[2] for file in files}
    if not names & {f"{split}.csv" for split in SPLITS}:
        caches = [cache_name(split) for split in SPLITS]
        if path.is_dir() and set(caches) & set(files):
            return _Found(None, [name for name in caches if name not in files])
        classes = match_folders(path, files)
        if any(classes.values()):
            return _Found(classes, [f"{split}/" for split in SPLITS if not classes[split]])
    return _Found(*match_tables(path, files))


def _places(root: Path) -> list[Path]:
    return [root / "mini-imagenet" / "mini-imagenet.zip", root / "mini-imagenet"]


def _find(root: Path) -> Path | None:
    """The zip, or the folder if it has anything of the data set."""
    archive, folder = _places(root)
    if archive.is_file():
        return archive
    return folder if folder.is_dir() else None


def _summarise(missing: list[str]) -> str:
    shown = ", ".join(missing[:3])
    return f"{len(missing)} files missing ({shown}{', ...' if len(missing) > 3 else ''})"


def _decode(path: Path, classes: dict[str, list[str]]) -> DecodedImages:
    class_names = tuple(sorted(classes))
    names = [name for label in class_names for name in classes[label]]
    images = np.empty((len(names), MINIIMAGENET_SIDE, MINIIMAGENET_SIDE, 3), dtype=np.uint8)
    square = functools.partial(to_square, side=MINIIMAGENET_SIDE, channels=3, fit="stretch")
    decode_images(path, names, square, images)
    return DecodedImages(images, class_names, make_starts([len(classes[n]) for n in class_names]))


def distant_files(root: str) -> list[tuple[str, DistantFile | None]]:
    """Its archives below a URL, and which are there."""
    found = find_distant(root, MINIIMAGENET_ARCHIVES)
    return [(places[0], file) for places, file in zip(MINIIMAGENET_ARCHIVES, found, strict=True)]


def status(root: Path) -> DataSetStatus:
    """What of miniImageNet lies under `root`; lists files, decodes none."""
    path = _find(root)
    if path is None:
        missing, found = ["train.csv", "val.csv", "test.csv", "images"], "nothing"
    else:
        try:
            classes, missing = _match(path)
            found = ", ".join(
                f"{split}: {len(members)} classes, {sum(map(len, members.values()))} images"
                for split, members in (classes or {}).items()
            )
            found = found or "pickle files"
        except ValueError as error:
            missing, found = [str(error)], "not readable"
    return DataSetStatus(
        name="miniimagenet",
        needs_data=True,
        complete=not missing,
        where=tuple(str(place) for place in ([path] if path else _places(root))),
        found=found,
        missing=tuple(missing if len(missing) <= 4 else [_summarise(missing)]),
        how_to_get="" if not missing else HOW_TO_GET_MINIIMAGENET,
    )
