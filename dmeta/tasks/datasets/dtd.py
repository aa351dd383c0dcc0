"""DTD: 47 kinds of textures, 120 images each (Cimpoi et al. 2014, arXiv:1311.3618).

As distributed: ``dtd/images/<class>/*.jpg``. As in Meta-Dataset (arXiv:1903.03096): 33/7/7 classes.

Differs from the paper: resized by Lanczos, not bilinearly.
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

DTD = ImageSet(
    name="dtd",
    title="DTD",
    places=("dtd.zip", "dtd"),
    find=by_name(r"/images/(?P<class>[a-z-]+)/(?P=class)_\d+\.jpg$"),
    images_per_class=120,
    how_to_get="download dtd-r1.0.1.tar.gz from robots.ox.ac.uk/~vgg/data/dtd and extract it into "
    "the data root (DMETA_DATA or task.root), as dtd/images/<class>/*.jpg",
    licence="for research",
    fit="stretch",
)


def load_dtd(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of DTD.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(DTD, split_list("dtd"), root=root, size=size, cache=cache)


status = functools.partial(image_set_status, DTD, split_list("dtd"))
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, DTD)
"""Its archive below a URL, and whether it is there."""
