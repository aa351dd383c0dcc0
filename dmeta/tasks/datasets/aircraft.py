"""FGVC-Aircraft: 100 variants of aircraft, 10,000 photographs (Maji et al. 2013, arXiv:1306.5151).

As distributed: ``fgvc-aircraft-2013b/data/`` with the photographs, whose variants and boxes are in
text files. As in Meta-Dataset (arXiv:1903.03096): 70/15/15 variants, cut out by their boxes.

Differs from the paper: resized by Lanczos, not bilinearly.
"""

from __future__ import annotations

import functools
import itertools
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
    *variants, boxes = (content.decode().splitlines() for content in contents)
    box_of = dict(line.split(" ", 1) for line in boxes)
    for line in itertools.chain(*variants):
        name, variant = line.split(" ", 1)
        left, upper, right, lower = map(int, box_of[name].split())
        yield ImageLabel(variant, f"{name}.jpg", (left, upper, right, lower))


AIRCRAFT = ImageSet(
    name="aircraft",
    title="FGVC-Aircraft",
    places=("fgvc-aircraft-2013b.zip", "fgvc-aircraft-2013b"),
    find=by_tables(
        ("images_variant_trainval.txt", "images_variant_test.txt", "images_box.txt"), _images
    ),
    images_per_class=100,
    how_to_get="download fgvc-aircraft-2013b.tar.gz from robots.ox.ac.uk/~vgg/data/fgvc-aircraft "
    "and extract it into the data root (DMETA_DATA or task.root), as fgvc-aircraft-2013b/data/...",
    licence="for non-commercial research",
    fit="stretch",
)


def load_aircraft(
    *, root: str | None = None, size: PositiveInt = 84, cache: bool = True
) -> ImageClasses:
    """Tasks of FGVC-Aircraft.

    Args:
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        size: height and width of the images, in pixels.
        cache: keep the decoded images for the next run, in DMETA_CACHE (``~/.cache/dmeta``).

    Raises:
        MissingDataError: a text file, a photograph or a class is not there.
        ValueError: a file is damaged.
    """
    return load_image_set(AIRCRAFT, split_list("aircraft"), root=root, size=size, cache=cache)


status = functools.partial(image_set_status, AIRCRAFT, split_list("aircraft"))
"""What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""

distant_files = functools.partial(distant_image_set, AIRCRAFT)
"""Its archive below a URL, and whether it is there."""
