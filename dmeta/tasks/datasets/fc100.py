"""FC100: CIFAR-100 split by superclass, 32x32 colour (Oreshkin et al. 2018, arXiv:1805.10123).

Reads the images of CIFAR-FS as its authors distribute them, ``cifar100/data/<class>/*.png``, which
are the same. The split has the classes of 12/4/4 superclasses: 60/20/20.
"""

from __future__ import annotations

import dataclasses
import functools

from pydantic import PositiveInt

from dmeta.tasks.datasets.cifar_fs import CIFAR_FS
from dmeta.tasks.image_set import (
    distant_image_set,
    image_set_status,
    load_image_set,
    split_list,
)
from dmeta.tasks.images import ImageClasses

FC100 = dataclasses.replace(CIFAR_FS, name="fc100", title="FC100")


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


status = functools.partial(image_set_status, FC100, split_list("fc100"))
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, FC100)
"""Its archive below a URL, and whether it is there."""
