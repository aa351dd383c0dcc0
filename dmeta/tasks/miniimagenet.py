"""miniImageNet: 100 classes of ImageNet, 84x84 colour (Vinyals et al. 2016, arXiv:1606.04080).

Reads the split of Ravi & Larochelle 2017: ``train.csv``, ``val.csv`` and ``test.csv`` (columns
filename,label; 64/16/20 classes) and the JPEGs that they name, from the folder ``mini-imagenet/``
(images in ``images/``) or from ``mini-imagenet/mini-imagenet.zip``. The csv files say what the data
set is: images that they do not name are not read, and a class may have any number of images.
There is no download: ImageNet's terms do not allow to pass the images on.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from dmeta.tasks.archives import decode_images, list_files
from dmeta.tasks.classes import make_starts
from dmeta.tasks.data_root import DistantFile, find_distant, resolve_root
from dmeta.tasks.image_cache import DecodedImages, load_decoded
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.miniimagenet_tables import match_tables
from dmeta.tasks.pixels import to_square
from dmeta.tasks.rotations import with_rotations
from dmeta.tasks.source import SPLITS
from dmeta.tasks.status import DataSetStatus, MissingDataError

MINIIMAGENET_SIDE = 84

MINIIMAGENET_ARCHIVES = (("mini-imagenet/mini-imagenet.zip",),)
"""What is read of a data root that is an address."""

HOW_TO_GET_MINIIMAGENET = (
    "place train.csv, val.csv, test.csv (Ravi & Larochelle; columns filename,label) and the images "
    "in mini-imagenet/images/ under the data root (DMETA_DATA or task.root), or all of it in "
    "mini-imagenet/mini-imagenet.zip; there is no free download, ImageNet's terms forbid it"
)


def load_miniimagenet(*, root: str | None = None, cache: bool = True) -> ImageClasses:
    """Tasks of miniImageNet (about 1.3 GB of memory for the full 60,000 images).

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a csv file, or an image that one names, is not there.
        ValueError: a file is damaged, or a class is in two splits.
    """
    folder = resolve_root(root, "miniImageNet", MINIIMAGENET_ARCHIVES)
    path = _find(folder)
    if path is None:
        raise MissingDataError("miniImageNet", "nothing", _places(folder), HOW_TO_GET_MINIIMAGENET)
    files = list_files(path)
    classes, missing = match_tables(path, files)
    if missing:
        raise MissingDataError("miniImageNet", _summarise(missing), [path], HOW_TO_GET_MINIIMAGENET)
    split_of = {label: split for split, members in classes.items() for label in members}
    decoded = load_decoded(
        "mini-imagenet",
        f"{MINIIMAGENET_SIDE}x{MINIIMAGENET_SIDE} rgb v2",
        [path],
        lambda: _decode(path, {label: classes[split][label] for label, split in split_of.items()}),
        use_cache=cache,
    )
    names = decoded.class_names
    members = {s: [c for c, n in enumerate(names) if split_of[n] == s] for s in SPLITS}
    unturned = with_rotations(members, dict.fromkeys(SPLITS, "none"))
    return ImageClasses(decoded.images, names, decoded.starts, *unturned)


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
            classes, missing = match_tables(path, list_files(path))
            found = ", ".join(
                f"{split}: {len(members)} classes, {sum(map(len, members.values()))} images"
                for split, members in classes.items()
            )
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
