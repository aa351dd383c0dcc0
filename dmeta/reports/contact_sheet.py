"""A picture of a few tasks: support and query images in a row for each class. Data in, PNG out.

Letters: W ways, K shots, Q queries per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dmeta.reports.drawing import new_figure, save
from dmeta.tasks.source import EpisodeSize, Split, TaskSource

_MOST_ROWS, _MOST_COLUMNS = 5, 4
_GAP = 0.06  # of an image's side, between two


def shows_images(source: TaskSource) -> bool:
    """Whether its examples are pictures: grey or colour."""
    shape = source.input_shape
    return source.kind == "classification" and len(shape) == 3 and shape[0] in (1, 3)


def contact_sheet(
    source: TaskSource, splits: Sequence[Split], size: EpisodeSize, seed: int, path: Path
) -> Path:
    """One task of each split: a row for each class, its support images left of its query images.

    Args:
        source: of images.
        splits: at least one, with tasks of `size`.
        size: of a task; of many ways, shots or queries the first are shown.
        seed: of the tasks.
        path: the PNG to write.

    Returns: `path`.
    """
    rows = min(size.ways, _MOST_ROWS)
    figure = new_figure(0.6 + 9.0 / (2 * _MOST_COLUMNS + 1) * rows * len(splits))
    panels = figure.subplots(len(splits), 2, squeeze=False)
    for (left, right), split in zip(panels, splits, strict=True):
        task = source.draw(split, size, np.random.default_rng([seed, len(split)]))
        for axes, what, x, y in (
            (left, "support", task.support_x, task.support_y),
            (right, "query", task.query_x, task.query_y),
        ):
            shown = _sheet(source, x, y, rows)
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(f"{split}: {what} set, a row for each class", fontsize=9)
    return save(figure, path)


def _sheet(
    source: TaskSource, x: npt.NDArray[np.generic], y: npt.NDArray[np.generic], rows: int
) -> npt.NDArray[np.float64]:
    """[height, width, 3], white between the images."""
    images = source.preprocess(torch.from_numpy(np.asarray(x))).double().numpy()
    images = np.broadcast_to(images, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1)
    height, width = images.shape[1:3]
    gap = max(1, round(_GAP * height))
    columns = min(_MOST_COLUMNS, int(np.bincount(y.astype(np.int64)).max()))
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for row in range(rows):
        for column, image in enumerate(images[y == row][:columns]):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = image
    return sheet
