"""FGVCx Fungi 2018: 1,394 species of fungi, 89,760 photographs (Schroeder & Cui 2018).

As distributed: ``images/`` and ``train.json``, ``val.json``. As in Meta-Dataset (arXiv:1903.03096):
both parts together, 994/200/200 species. 84x84 pixels of all take 1.9 GB of memory.

Differs from the paper: resized by Lanczos, not bilinearly.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence

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


def _images(contents: Sequence[bytes]) -> Iterator[ImageLabel]:
    for table in map(json.loads, contents):
        # Species that share a name have different numbers.
        names = {each["id"]: f"{each['id']:04d}.{each['name']}" for each in table["categories"]}
        files = {each["id"]: each["file_name"] for each in table["images"]}
        for each in table["annotations"]:
            yield ImageLabel(names[each["category_id"]], files[each["image_id"]])


FUNGI = ImageSet(
    name="fungi",
    title="FGVCx Fungi",
    places=("fungi.zip", "fungi"),
    find=by_tables(("train.json", "val.json"), _images),
    images_per_class=None,
    how_to_get="download fungi_train_val.tgz and train_val_annotations.tgz from "
    "github.com/visipedia/fgvcx_fungi_comp and extract both into fungi/ under the data root "
    "(DMETA_DATA or task.root); or zip that folder, as fungi.zip",
    licence="for non-commercial research and education",
    fit="stretch",
)


def load_fungi(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of FGVCx Fungi.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a table, a photograph or a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(FUNGI, split_list("fungi"), root=root, size=size, cache=cache)


status = functools.partial(image_set_status, FUNGI, split_list("fungi"))
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, FUNGI)
"""Its archive below a URL, and whether it is there."""
