"""FC100: CIFAR-100 split by superclass, 32x32 colour (Oreshkin et al. 2018, arXiv:1805.10123).

Reads the images of CIFAR-FS as its authors distribute them, ``cifar100/data/<class>/*.png``, which
are the same. The split has the classes of 12/4/4 superclasses: 60/20/20.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import PositiveInt

from dmeta.tasks.data_root import DistantFile
from dmeta.tasks.image_set import (
    ImageSet,
    distant_image_set,
    image_set_status,
    load_image_set,
    split_list,
)
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.status import DataSetStatus

FC100 = ImageSet(
    name="fc100",
    title="FC100",
    places=("cifar100.zip", "cifar100"),
    class_of=re.compile(r"/data/(?P<class>[^/]+)/[^/]+\.(?:png|jpg)$"),
    images_per_class=600,
    how_to_get="download cifar100.zip (as in github.com/bertinetto/r2d2) and place it in the data "
    "root (DMETA_DATA or task.root), or extract it there, as cifar100/data/<class>/*.png",
)


def load_fc100(
    *, root: str | None = None, size: PositiveInt = 32, cache: bool = True
) -> ImageClasses:
    """Tasks of FC100.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(FC100, split_list("fc100"), root=root, size=size, cache=cache)


def status(root: Path) -> DataSetStatus:
    """What of it lies under `root`."""
    return image_set_status(FC100, split_list("fc100"), root)


def distant_files(root: str) -> list[tuple[str, DistantFile | None]]:
    """Its archive below a URL, and whether it is there."""
    return distant_image_set(FC100, root)
