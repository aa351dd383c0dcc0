"""GTSRB: 43 traffic signs, 39,209 photographs, for testing alone (Stallkamp et al. 2011).

As distributed: ``GTSRB/Final_Training/Images/<number>/*.ppm``. As in Meta-Dataset
(arXiv:1903.03096): all classes are test classes. Photographs of one sign come in series of 30, so
support and query examples can show the same sign, there as here.

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

TRAFFIC_SIGN = ImageSet(
    name="traffic_sign",
    title="GTSRB",
    places=("GTSRB_Final_Training_Images.zip", "GTSRB"),
    find=by_name(
        r"/Images/(?P<class>\d{5})/[^/]+\.ppm$",
        {f"000{name[:2]}": name for name in split_list("traffic_sign")["test"]},
    ),
    images_per_class=None,
    how_to_get="download GTSRB_Final_Training_Images.zip from benchmark.ini.rub.de and place it in "
    "the data root (DMETA_DATA or task.root), or extract it there, as GTSRB/Final_Training/...",
    licence="none stated",
    fit="stretch",
    formats=("PPM",),
)


def load_traffic_sign(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of GTSRB.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(
        TRAFFIC_SIGN, split_list("traffic_sign"), root=root, size=size, cache=cache
    )


status = functools.partial(image_set_status, TRAFFIC_SIGN, split_list("traffic_sign"))
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, TRAFFIC_SIGN)
"""Its archive below a URL, and whether it is there."""
