"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each (Lake et al. 2015).

Reads the original distribution, zipped or extracted, 105x105 one-bit PNGs named
``images_background/<Alphabet>/characterNN/XXXX_YY.png`` (30 alphabets) and
``images_evaluation/...`` (20 alphabets). In memory: 28x28 uint8, strokes 255 on 0.

Differs from the common MAML code: there, 1-bit images are shrunk with Pillow's LANCZOS filter, for
which Pillow silently takes NEAREST (it does so for every 1-bit image), and strokes break; here they
become grey first, so that the filter is the one that is named.

Known: Braille/character01 has one drawing twice (drawers 3 and 19); kept, as everywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from dmeta.tasks.archives import ByteArray, decode_images, list_files
from dmeta.tasks.classes import make_starts
from dmeta.tasks.data_root import DistantFile, find_distant, resolve_root
from dmeta.tasks.image_cache import DecodedImages, load_decoded
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.omniglot_splits import SplitRule, split_of_each
from dmeta.tasks.pixels import to_grey
from dmeta.tasks.rotations import Rotations, with_rotations
from dmeta.tasks.source import SPLITS, Split
from dmeta.tasks.status import DataSetStatus, MissingDataError

OMNIGLOT_SIDE = 28
DRAWINGS = 20
OMNIGLOT_PARTS: Mapping[str, int] = {"images_background": 964, "images_evaluation": 659}
"""Folder or zip -> characters in it."""

_FOLDERS = ("omniglot", "", "omniglot-py")  # our own, the root itself, torchvision's
OMNIGLOT_ARCHIVES = tuple(
    tuple(f"{f}/{part}.zip".lstrip("/") for f in _FOLDERS) for part in OMNIGLOT_PARTS
)
"""Where each part may lie below a data root that is an address."""

HOW_TO_GET_OMNIGLOT = (
    "set task.download=true to download it, or place images_background.zip and "
    "images_evaluation.zip of github.com/brendenlake/omniglot (folder python) in omniglot/ under "
    "the data root (DMETA_DATA or task.root)"
)

_DRAWING = re.compile(r"(?:^|/)([^/]+)/(character(\d\d))/\d{4}_\d\d\.png$")


def load_omniglot(
    *,
    root: str | None = None,
    split: SplitRule = "vinyals",
    rotations: Rotations | bool = "classes",
    eval_rotations: Rotations | None = None,
    download: bool = False,
    cache: bool = True,
) -> ImageClasses:
    """Omniglot tasks.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        split: ``finn``: 1100/100/423 characters at random, alphabets mixed (MAML, Reptile);
            ``vinyals``: 1028/172/423, whole alphabets held out (prototypical networks); ``lake``:
            the background alphabets for train (the last 5 by name for val), the evaluation
            alphabets for test.
        rotations: ``classes``: each character turned by 0, 90, 180 and 270 degrees makes four
            classes, so that a task may hold one character twice (Vinyals et al. 2016, prototypical
            networks, training in Reptile's code); ``per_task``: each character of a task is turned
            by one of them at random, and a task holds a character once (the code of MAML, iMAML
            and, in training, MAML++); ``none``. True and False, in runs of before, mean
            ``classes`` and ``none``.
        eval_rotations: the same for the validation and the test split (the code of Reptile and
            MAML++: ``none``); None: as `rotations`.
        download: fetch it with torchvision if it is not there; into a folder only.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: Omniglot, or a part of it, is not there.
        ValueError: a file is damaged.
    """
    folder = resolve_root(root, "Omniglot", OMNIGLOT_ARCHIVES)
    if download and not all(find_part(folder, part) for part in OMNIGLOT_PARTS):
        _download(folder)
    if isinstance(rotations, bool):
        rotations = "classes" if rotations else "none"
    return _load(
        folder,
        split,
        rotations={
            "train": rotations,
            "val": eval_rotations or rotations,
            "test": eval_rotations or rotations,
        },
        cache=cache,
        expected=OMNIGLOT_PARTS,
    )


def _load(
    root: Path,
    rule: SplitRule,
    *,
    rotations: Mapping[Split, Rotations],
    cache: bool,
    expected: Mapping[str, int],
) -> ImageClasses:
    """`load_omniglot`, given how many characters are `expected` in each part."""
    if rule not in get_args(SplitRule):
        raise ValueError(
            f"split must be 'finn', 'vinyals' or 'lake', got {rule!r}; change task.split"
        )
    paths: dict[str, Path] = {}
    for part in expected:
        path = find_part(root, part)
        if path is None:
            raise MissingDataError(
                "Omniglot", f"no {part}[.zip]", part_places(root, part), HOW_TO_GET_OMNIGLOT
            )
        paths[part] = path
    drawings = {part: _list_drawings(path) for part, path in paths.items()}
    for part, characters in drawings.items():
        if missing := _describe_missing(part, characters, expected[part]):
            raise MissingDataError("Omniglot", missing, [paths[part]], HOW_TO_GET_OMNIGLOT)
    decoded = load_decoded(
        "omniglot",
        f"{OMNIGLOT_SIDE}x{OMNIGLOT_SIDE} grey lanczos inverted v2",
        list(paths.values()),
        lambda: _decode(paths, drawings),
        use_cache=cache,
    )
    background = sorted({name.split("/")[0] for name in drawings["images_background"]})
    of_each = split_of_each(rule, decoded.class_names, background)
    classes = {split: [c for c, own in enumerate(of_each) if own == split] for split in SPLITS}
    return ImageClasses(
        decoded.images,
        decoded.class_names,
        decoded.starts,
        *with_rotations(classes, rotations),
    )


def part_places(root: Path, part: str) -> list[Path]:
    """Where a part may lie in a folder; zips first."""
    return [root / folder / name for folder in _FOLDERS for name in (f"{part}.zip", part)]


def find_part(root: Path, part: str) -> Path | None:
    """The zip or folder that holds a part, or None."""
    return next((path for path in part_places(root, part) if path.exists()), None)


def _list_drawings(path: Path) -> dict[str, list[str]]:
    """Character (``Greek/character01``) -> its files, both sorted."""
    characters: dict[str, list[str]] = {}
    for name in list_files(path):
        if match := _DRAWING.search(f"/{name}"):
            characters.setdefault(f"{match[1]}/{match[2]}", []).append(name)
    return dict(sorted(characters.items()))


def _describe_missing(part: str, characters: dict[str, list[str]], expected: int) -> str:
    """What a part lacks, or an empty string."""
    if len(characters) != expected:
        return f"{len(characters)} of {expected} characters in {part}"
    for name, files in characters.items():
        if len(files) != DRAWINGS:
            return f"{len(files)} of {DRAWINGS} drawings of {name} in {part}"
    return ""


def _decode(paths: dict[str, Path], drawings: dict[str, dict[str, list[str]]]) -> DecodedImages:
    """All parts, merged and sorted by character."""
    owner = {name: part for part, characters in drawings.items() for name in characters}
    class_names = tuple(sorted(owner))
    starts = make_starts([len(drawings[owner[name]][name]) for name in class_names])
    images = np.empty((int(starts[-1]), OMNIGLOT_SIDE, OMNIGLOT_SIDE), dtype=np.uint8)
    for part, characters in drawings.items():
        files = [file for paths_of_one in characters.values() for file in paths_of_one]
        rows = [
            row
            for c, name in enumerate(class_names)
            if owner[name] == part
            for row in range(int(starts[c]), int(starts[c + 1]))
        ]
        part_images = np.empty((len(files), OMNIGLOT_SIDE, OMNIGLOT_SIDE), dtype=np.uint8)
        decode_images(paths[part], files, _shrink, part_images, threads=1)
        images[rows] = part_images
    return DecodedImages(images, class_names, starts)


def _shrink(image: Image.Image) -> ByteArray:
    """Black strokes on white, any size -> [28, 28], strokes 255 on 0."""
    grey = to_grey(image).resize((OMNIGLOT_SIDE, OMNIGLOT_SIDE), Image.Resampling.LANCZOS)
    return 255 - np.asarray(grey, dtype=np.uint8)


def _download(root: Path) -> None:
    from dmeta.torchvision_compat import import_datasets

    datasets = import_datasets()
    for background in (True, False):
        datasets.Omniglot(str(root), background=background, download=True)


def distant_files(root: str) -> list[tuple[str, DistantFile | None]]:
    """Its archives below a URL, and which are there."""
    found = find_distant(root, OMNIGLOT_ARCHIVES)
    return [(places[0], file) for places, file in zip(OMNIGLOT_ARCHIVES, found, strict=True)]


def status(root: Path) -> DataSetStatus:
    """What of Omniglot lies under `root`; lists files, decodes none."""
    where: list[str] = []
    found: list[str] = []
    missing: list[str] = []
    for part, expected in OMNIGLOT_PARTS.items():
        path = find_part(root, part)
        if path is None:
            missing.append(f"{part}[.zip]")
            continue
        where.append(str(path))
        try:
            characters = _list_drawings(path)
        except ValueError as error:
            missing.append(str(error))
            continue
        images = sum(map(len, characters.values()))
        found.append(f"{part}: {len(characters)} characters, {images} drawings")
        if lacking := _describe_missing(part, characters, expected):
            missing.append(lacking)
    return DataSetStatus(
        name="omniglot",
        needs_data=True,
        complete=not missing,
        where=tuple(where or map(str, part_places(root, "images_background"))),
        found="; ".join(found) or "nothing",
        missing=tuple(missing),
        how_to_get="" if not missing else HOW_TO_GET_OMNIGLOT,
    )
