"""ISIC 2018, task 3: lesions of the skin, for testing alone (Guo et al. 2020, BSCD-FSL).

Codella et al. 2019, arXiv:1902.03368 (HAM10000, Tschandl et al. 2018). As distributed: a csv file
with a column for each of 7 classes and a folder of images; arXiv:1912.07200 uses all of the 10,015
training images.

Differs from the paper: all of an image is used; its code cuts off 7% at each edge.
"""

from __future__ import annotations

import functools

from pydantic import PositiveInt

from dmeta.tasks.image_labels import by_csv
from dmeta.tasks.image_set import (
    ImageSet,
    distant_image_set,
    for_testing,
    image_set_status,
    load_image_set,
)
from dmeta.tasks.images import ImageClasses

CLASSES = for_testing("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC")

ISIC = ImageSet(
    name="isic",
    title="ISIC 2018",
    places=("ISIC2018.zip", "ISIC2018"),
    find=by_csv(
        "ISIC2018_Task3_Training_GroundTruth.csv",
        lambda row: f"ISIC2018_Task3_Training_Input/{row['image']}.jpg",
        lambda row: next((c for c in CLASSES["test"] if float(row[c]) != 0), None),
    ),
    images_per_class=None,
    how_to_get="download the training data and ground truth of task 3 from "
    "challenge.isic-archive.com/data, extract both zips into ISIC2018/ under the data root "
    "(DMETA_DATA or task.root), or zip that folder, as ISIC2018.zip",
    licence="CC BY-NC 4.0",
    fit="stretch",
)


def load_isic(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of ISIC 2018.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: the table, an image or a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(ISIC, CLASSES, root=root, size=size, cache=cache)


status = functools.partial(image_set_status, ISIC, CLASSES)
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, ISIC)
"""Its archive below a URL, and whether it is there."""
