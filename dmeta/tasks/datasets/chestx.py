"""ChestX: X-rays of chests, for testing alone (Guo et al. 2020, BSCD-FSL).

ChestX-ray14, Wang et al. 2017, arXiv:1705.02315. As distributed: ``Data_Entry_2017.csv`` and the
images, in any folders. As in arXiv:1912.07200: the images with one finding alone, of 7 classes.

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

CLASSES = for_testing(
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax"
)

CHESTX = ImageSet(
    name="chestx",
    title="ChestX-ray14",
    places=("ChestX.zip", "ChestX"),
    find=by_csv(
        "Data_Entry_2017.csv",
        lambda row: row["Image Index"],
        lambda row: row["Finding Labels"] if row["Finding Labels"] in CLASSES["test"] else None,
    ),
    images_per_class=None,
    how_to_get="download Data_Entry_2017.csv and the images (kaggle.com/nih-chest-xrays/data) and "
    "extract them into ChestX/ under the data root (DMETA_DATA or task.root), or zip that folder, "
    "as ChestX.zip",
    licence="free to use with acknowledgement of the NIH Clinical Center",
    fit="stretch",
)


def load_chestx(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of ChestX-ray14.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: the table, an image or a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(CHESTX, CLASSES, root=root, size=size, cache=cache)


status = functools.partial(image_set_status, CHESTX, CLASSES)
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, CHESTX)
"""Its archive below a URL, and whether it is there."""
