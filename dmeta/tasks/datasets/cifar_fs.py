"""CIFAR-FS: the classes of CIFAR-100, split at random, 32x32 colour.

Bertinetto et al. 2019 (arXiv:1805.08136). As its authors distribute it:
``cifar100/data/<class>/*.png``, 600 of each class, training and test images of CIFAR-100 together.
The split has 64/16/20 classes.
"""

from __future__ import annotations

import functools

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

CIFAR_FS = ImageSet(
    name="cifar_fs",
    title="CIFAR-FS",
    places=("cifar100.zip", "cifar100"),
    find=by_name(r"/data/(?P<class>[^/]+)/[^/]+\.(?:png|jpg)$"),
    images_per_class=600,
    how_to_get="download cifar100.zip (as in github.com/bertinetto/r2d2) and place it in the data "
    "root (DMETA_DATA or task.root), or extract it there, as cifar100/data/<class>/*.png",
    licence="none stated",
)


def load_cifar_fs(
    *, root: str | None = None, size: PositiveInt = 32, cache: bool = True
) -> ImageClasses:
    """Tasks of CIFAR-FS.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(CIFAR_FS, split_list("cifar_fs"), root=root, size=size, cache=cache)


status = functools.partial(image_set_status, CIFAR_FS, split_list("cifar_fs"))
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, CIFAR_FS)
"""Its archive below a URL, and whether it is there."""
