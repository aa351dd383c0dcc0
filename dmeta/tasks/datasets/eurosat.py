"""EuroSAT: land use in images of Sentinel-2, for testing alone (Guo et al. 2020, BSCD-FSL).

Helber et al. 2019; the colour images as distributed, ``2750/<class>/<class>_N.jpg``: 10 classes,
27,000 images of 64x64 pixels. arXiv:1912.07200 uses all of them.

Differs from the paper: all of an image is used; its code cuts off 7% at each edge.
"""

from __future__ import annotations

import functools

from pydantic import PositiveInt

from dmeta.tasks.image_labels import by_name
from dmeta.tasks.image_set import ImageSet, distant_image_set, image_set_status, load_image_set
from dmeta.tasks.images import ImageClasses

NUM_CLASSES = 10

EUROSAT = ImageSet(
    name="eurosat",
    title="EuroSAT",
    places=("EuroSAT.zip", "EuroSAT_RGB.zip", "EuroSAT", "EuroSAT_RGB", "2750"),
    find=by_name(r"/(?P<class>[A-Za-z]+)/(?P=class)_\d+\.jpg$"),
    images_per_class=None,
    how_to_get="download EuroSAT.zip from madm.dfki.de/files/sentinel (or EuroSAT_RGB.zip from "
    "zenodo.org/records/7711810) and place it in the data root (DMETA_DATA or task.root), or "
    "extract it there, as 2750/<class>/*.jpg",
    licence="MIT; the images by Copernicus, free with attribution",
    fit="stretch",
)


def load_eurosat(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of EuroSAT.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(EUROSAT, NUM_CLASSES, root=root, size=size, cache=cache)


status = functools.partial(image_set_status, EUROSAT, NUM_CLASSES)
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, EUROSAT)
"""Its archive below a URL, and whether it is there."""
