"""CropDiseases: leaves of crops, healthy and ill, for testing alone (Guo et al. 2020, BSCD-FSL).

The part that arXiv:1912.07200 uses, as it is distributed: ``dataset/train/<class>/*``, 38 classes.

Differs from the paper: all of an image is used; its code cuts off 7% at each edge.
"""

from __future__ import annotations

import functools

from pydantic import PositiveInt

from dmeta.tasks.image_labels import by_name
from dmeta.tasks.image_set import ImageSet, distant_image_set, image_set_status, load_image_set
from dmeta.tasks.images import ImageClasses

NUM_CLASSES = 38

CROP_DISEASE = ImageSet(
    name="crop_disease",
    title="CropDiseases",
    places=("CropDiseases.zip", "CropDiseases"),
    find=by_name(r"/dataset/train/(?P<class>[^/]+)/[^/]+\.(?:jpe?g|JPE?G|png|PNG)$"),
    images_per_class=None,
    how_to_get="download kaggle.com/saroz014/plant-disease and place it in the data root "
    "(DMETA_DATA or task.root) as CropDiseases.zip, or extract it there, as "
    "CropDiseases/dataset/train/<class>/*.JPG",
    licence="none stated there; PlantVillage, where the images are from: CC BY-SA 3.0",
    fit="stretch",
)


def load_crop_disease(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of CropDiseases.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(CROP_DISEASE, NUM_CLASSES, root=root, size=size, cache=cache)


status = functools.partial(image_set_status, CROP_DISEASE, NUM_CLASSES)
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, CROP_DISEASE)
"""Its archive below a URL, and whether it is there."""
