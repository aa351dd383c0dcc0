"""tieredImageNet: 608 classes of ImageNet, split by superclass (Ren et al. 2018, arXiv:1803.00676).

Reads a folder or zip with ``<split>/<class>/*``, classes called as in WordNet (``n01440764``). The
split has the classes of 20/6/8 superclasses: 351/97/160. Images of any size become 84x84.
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

TIERED_IMAGENET = ImageSet(
    name="tiered_imagenet",
    title="tieredImageNet",
    places=("tiered_imagenet.zip", "tiered_imagenet", "tiered-imagenet"),
    find=by_name(r"/(?:train|val|test)/(?P<class>n\d{8})/[^/]+\.(?:jpe?g|JPE?G|png)$"),
    images_per_class=None,
    how_to_get="place the images in tiered_imagenet/<split>/<class>/ under the data root "
    "(DMETA_DATA or task.root); there is no free download, ImageNet's terms forbid it",
    licence="ImageNet's terms, for non-commercial research and education",
)


def load_tiered_imagenet(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of tieredImageNet.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(
        TIERED_IMAGENET, split_list("tiered_imagenet"), root=root, size=size, cache=cache
    )


status = functools.partial(image_set_status, TIERED_IMAGENET, split_list("tiered_imagenet"))
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, TIERED_IMAGENET)
"""Its archive below a URL, and whether it is there."""
