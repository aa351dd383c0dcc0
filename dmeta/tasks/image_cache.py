"""Decoded image sets, stored in a file so that they are decoded once.

The cache is never required: without a folder that can be written, or with a damaged file, the
images are decoded again. A cache file is complete or absent (written aside, then renamed), holds
plain arrays only, and its check sum is verified whenever it is read (zip members carry a CRC-32).
Images are mapped into memory, so that processes share them and they need not fit. What the images
show is unknown here.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL

from dmeta.addresses import cache_folder
from dmeta.tasks.archives import ByteArray, fingerprint
from dmeta.tasks.arrays import READ_ERRORS, map_array, write_arrays
from dmeta.tasks.classes import IntArray


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images sorted by class.

    Attributes:
        images: [N, H, W] or [N, H, W, 3] uint8.
        class_names: C names, sorted.
        starts: [C + 1] int64 offsets into images.
        left_out: why -> names of files that none of the images is of.
    """

    images: ByteArray
    class_names: tuple[str, ...]
    starts: IntArray
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)


def load_decoded(
    name: str,
    recipe: str,
    paths: list[Path],
    decode: Callable[[], DecodedImages],
    *,
    use_cache: bool,
) -> DecodedImages:
    """``decode()``, or what an earlier call of it left in the cache.

    Args:
        name: the data set's name, part of the cache file's.
        recipe: what decode does, in words with a version; another recipe makes the cache stale,
            and so does another version of Pillow (two JPEG decoders may differ by a bit).
        paths: the zips or folders that decode reads; a change of any file makes the cache stale.
            They are only read: the cache lies in `dmeta.addresses.cache_folder`, in a file that is
            named after where they are.
        decode: reads the images.
        use_cache: if false, no cache is read or written.
    """
    if not use_cache:
        return decode()
    sources = "\n".join(str(path.resolve()) for path in paths)
    filename = f"{name}-{hashlib.sha256(sources.encode()).hexdigest()[:16]}.npz"
    stamp = json.dumps(
        {"recipe": recipe, "pillow": PIL.__version__, "sources": [fingerprint(p) for p in paths]}
    )
    path = cache_folder() / "decoded" / filename
    cached = _read(path, stamp)
    if cached is not None:
        return cached
    decoded = decode()
    arrays = {
        "stamp": np.array(stamp),
        "class_names": np.array(decoded.class_names),
        "starts": decoded.starts,
        "images": decoded.images,
        "left_out": np.array(json.dumps(decoded.left_out)),
    }
    try:
        write_arrays(path, arrays)
    except OSError as error:
        warnings.warn(
            f"the decoded {name} images could not be cached ({path.parent}: "
            f"{error.strerror or error}), so the next run decodes them again; set DMETA_CACHE to a "
            "folder that can be written to, or task.cache=false to silence this",
            stacklevel=2,
        )
    return decoded


def _read(path: Path, stamp: str) -> DecodedImages | None:
    """The cached images, or None if there are none, they are stale or damaged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["stamp"]) != stamp:
                return None
            return DecodedImages(
                map_array(path, "images"),
                tuple(arrays["class_names"].tolist()),
                arrays["starts"],
                json.loads(str(arrays.get("left_out", "{}"))),  # none in those of before
            )
    except READ_ERRORS as error:
        warnings.warn(
            f"the cache file {path} is damaged ({error}); its images are decoded again",
            stacklevel=3,
        )
        return None
