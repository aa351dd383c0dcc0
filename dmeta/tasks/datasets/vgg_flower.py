"""VGG Flower: 102 flowers, 8,189 photographs (Nilsback & Zisserman 2008).

As distributed: ``jpg/image_NNNNN.jpg`` and ``imagelabels.mat``, for which scipy must be installed.
As in Meta-Dataset (arXiv:1903.03096): 71/15/16 classes.

Differs from the paper: resized by Lanczos, not bilinearly.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence

from pydantic import PositiveInt

from dmeta.tasks.image_labels import ImageLabel, by_tables
from dmeta.tasks.image_set import (
    ImageSet,
    distant_image_set,
    image_set_status,
    load_image_set,
    split_list,
)
from dmeta.tasks.images import ImageClasses


def _images(contents: Sequence[bytes]) -> list[ImageLabel]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError(
            "scipy must be installed to read imagelabels.mat of VGG Flower, got none; "
            "pip install scipy"
        ) from None
    try:
        numbers = (
            loadmat(io.BytesIO(contents[0]), variable_names="labels")["labels"].ravel().tolist()
        )
    except Exception as error:  # scipy raises anything on a damaged file
        raise ValueError(str(error)) from error
    name_of = {int(name[:3]): name for own in split_list("vgg_flower").values() for name in own}
    return [
        ImageLabel(name_of[number], f"jpg/image_{place:05d}.jpg")
        for place, number in enumerate(numbers, 1)
    ]


VGG_FLOWER = ImageSet(
    name="vgg_flower",
    title="VGG Flower",
    places=("vgg_flower.zip", "vgg_flower"),
    find=by_tables(("imagelabels.mat",), _images),
    images_per_class=None,
    how_to_get="download 102flowers.tgz and imagelabels.mat from robots.ox.ac.uk/~vgg/data/"
    "flowers/102 and place both in vgg_flower/ under the data root (DMETA_DATA or task.root), the "
    "first extracted, as vgg_flower/jpg/*.jpg; or zip that folder, as vgg_flower.zip",
    licence="none stated",
    fit="stretch",
)


def load_vgg_flower(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of VGG Flower.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: the table, a photograph or a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(VGG_FLOWER, split_list("vgg_flower"), root=root, size=size, cache=cache)


status = functools.partial(image_set_status, VGG_FLOWER, split_list("vgg_flower"))
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, VGG_FLOWER)
"""Its archive below a URL, and whether it is there."""
