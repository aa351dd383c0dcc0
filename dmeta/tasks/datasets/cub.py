"""CUB-200-2011: 200 species of birds, 11,788 photographs (Wah et al. 2011).

As distributed: ``CUB_200_2011/images/<class>/*.jpg``. The split ``chen`` is that of Chen et al.
2019 (arXiv:1904.04232): of the classes in order every second trains, the others are val and test in
turn (100/50/50). The images are of 84x84 pixels there too, but cropped otherwise. ``metadataset``
is that of Meta-Dataset (arXiv:1903.03096; 140/30/30), which stretches images to a square.
"""

from __future__ import annotations

import functools
from typing import Literal

from pydantic import PositiveInt

from dmeta.tasks.image_labels import by_name
from dmeta.tasks.image_set import (
    ImageSet,
    distant_image_set,
    image_set_status,
    load_image_set,
    split_list,
)
from dmeta.tasks.images import ImageClasses

CUB = ImageSet(
    name="cub",
    title="CUB-200-2011",
    places=("CUB_200_2011.zip", "CUB_200_2011"),
    find=by_name(r"/images/(?P<class>\d{3}\.[^/]+)/[^/]+\.jpg$"),
    images_per_class=None,  # 41 to 60
    how_to_get="download CUB_200_2011.tgz from data.caltech.edu/records/65de6-vp158 and extract it "
    "into the data root (DMETA_DATA or task.root), as CUB_200_2011/images/...",
    licence="for non-commercial research and education",
)


def load_cub(
    *,
    root: str | None = None,
    split: Literal["chen", "metadataset"] = "chen",
    size: PositiveInt = 84,
    cache: bool = True,
) -> ImageClasses:
    """Tasks of CUB-200-2011.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        split: which classes are in which split, ``chen`` or ``metadataset``.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a class is not there.
        ValueError: a file is damaged.
    """
    classes = split_list("cub" if split == "chen" else "cub_metadataset")
    return load_image_set(CUB, classes, root=root, size=size, cache=cache)


status = functools.partial(image_set_status, CUB, split_list("cub"))
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, CUB)
"""Its archive below a URL, and whether it is there."""
