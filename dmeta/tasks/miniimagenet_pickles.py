"""The pickle caches of miniImageNet: ``mini-imagenet-cache-{train,val,test}.pkl``.

Those of Ren et al. 2018 (arXiv:1803.00676) and of what took them over: a dict with ``image_data``,
[N, 84, 84, 3] uint8, and ``class_dict``, class -> rows of its images. They are read as data, of
which nothing is run (`dmeta.tasks.plain_pickle`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dmeta.tasks.archives import ByteArray
from dmeta.tasks.classes import IntArray, make_starts
from dmeta.tasks.image_cache import DecodedImages
from dmeta.tasks.plain_pickle import load_plain_pickle
from dmeta.tasks.source import SPLITS, Split


class Cache(NamedTuple):
    """What one file holds.

    Attributes:
        images: [N, H, W, 3] uint8.
        rows: class -> [n] rows of its images.
    """

    images: ByteArray
    rows: Mapping[str, IntArray]


def cache_name(split: Split) -> str:
    """The name of a split's file."""
    return f"mini-imagenet-cache-{split}.pkl"


def read_caches(folder: Path, side: int) -> DecodedImages:
    """The images of the three files, by class and split (which are the class's name, as JSON).

    Args:
        folder: that has them.
        side: height and width that the images must have.

    Raises:
        ValueError: a file is damaged, holds anything else, or shares a class with another.
    """
    caches = {split: _read(folder / cache_name(split), side) for split in SPLITS}
    owners = [(label, split) for split, cache in caches.items() for label in cache.rows]
    for place, (label, split) in enumerate(ordered := sorted(owners)):
        if place and ordered[place - 1][0] == label:
            raise ValueError(
                f"the splits must be disjoint, got class {label!r} in "
                f"{cache_name(ordered[place - 1][1])} and in {cache_name(split)} of {folder}; use "
                "the files of one publisher"
            )
    counts = [len(caches[split].rows[label]) for label, split in ordered]
    starts = make_starts(counts)
    images = np.empty((sum(counts), side, side, 3), dtype=np.uint8)
    for place, (label, split) in enumerate(ordered):
        own = caches[split]
        np.take(own.images, own.rows[label], axis=0, out=images[starts[place] : starts[place + 1]])
    return DecodedImages(images, tuple(map(json.dumps, ordered)), starts)


def _read(path: Path, side: int) -> Cache:
    data = load_plain_pickle(path)
    found = {_text(key): value for key, value in data.items()} if isinstance(data, dict) else {}
    classes = found.get("class_dict")
    try:
        images = np.asarray(found.get("image_data"))
        rows = {_text(label): _rows(own) for label, own in dict(classes or {}).items()}
    except (TypeError, ValueError):
        rows = {}
    wrong_images = not rows or images.dtype != np.uint8 or images.shape[1:] != (side, side, 3)
    if wrong_images or any(not len(own) or own.min() < 0 or own.max() >= len(images) for own in rows.values()):  # noqa: E501  # fmt: skip
        raise ValueError(
            f"a pickle of miniImageNet must be a dict with image_data, uint8 [N, {side}, {side}, "
            f"3], and class_dict, class -> rows of image_data, got {path} with "
            f"{', '.join(sorted(found)) or type(data).__name__}; use the files of its publisher, "
            "or another form of the data set"
        )
    return Cache(images, rows)


def _rows(own: Sequence[int]) -> IntArray:
    rows = np.asarray(own)
    if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
        raise ValueError("no rows")
    return rows.astype(np.int64)


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)
