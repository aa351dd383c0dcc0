"""Glyphs: drawn characters, for use without a data set.

A class is a few curved strokes; a drawing of it moves every control point a little and the whole
by a small affine map, like another hand. All of it follows from the seed. The shape of the data is
Omniglot's (28x28 grey, 20 drawings a class); results on it are comparable with nothing published.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dmeta.tasks.archives import ByteArray
from dmeta.tasks.classes import IntArray, make_starts
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.source import Split

_FloatArray = npt.NDArray[np.float64]

GLYPH_SIDE = 28
TRAIN_SHARE, VAL_SHARE = 0.64, 0.16
"""miniImageNet's proportions; test has the rest."""

_POINTS = 28  # samples along a stroke, closer together than a pixel
_RADIUS = 0.9  # half a stroke's width, pixels
_JITTER = 0.08  # of control points, standard deviation, of the glyph's half width
_REACH = 2  # pixels around a sample that it can darken


def make_glyphs(*, num_classes: int = 300, drawings: int = 20, seed: int = 0) -> ImageClasses:
    """Tasks of made-up characters: 64% of the classes train, 16% val, the rest test.

    Args:
        num_classes: characters, at least 15. A character does not depend on how many there are.
        drawings: images per class.
        seed: of the characters and their drawings.

    Raises:
        ValueError: an option is out of range.
    """
    for name, value, low, high in (
        ("num_classes", num_classes, 15, 100_000),
        ("drawings", drawings, 2, 10_000),
        ("seed", seed, 0, 2**63),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} must be in {low}..{high}, got {value}; change task.{name}")
    images = np.empty((num_classes, drawings, GLYPH_SIDE, GLYPH_SIDE), dtype=np.uint8)
    for c in range(num_classes):
        images[c] = _draw_class(np.random.default_rng([seed, c]), drawings)
    return ImageClasses(
        images.reshape(-1, GLYPH_SIDE, GLYPH_SIDE),
        tuple(f"glyph{c:05d}" for c in range(num_classes)),
        make_starts([drawings] * num_classes),
        _make_splits(num_classes),
    )


def _make_splits(num_classes: int) -> dict[Split, IntArray]:
    num_train = round(TRAIN_SHARE * num_classes)
    num_val = round(VAL_SHARE * num_classes)
    cuts = (0, num_train, num_train + num_val, num_classes)
    pairs = np.stack([np.arange(num_classes), np.zeros(num_classes, dtype=np.int64)], axis=1)
    return {
        "train": pairs[cuts[0] : cuts[1]],
        "val": pairs[cuts[1] : cuts[2]],
        "test": pairs[cuts[2] : cuts[3]],
    }


def _draw_class(rng: np.random.Generator, drawings: int) -> ByteArray:
    """[D, 28, 28]: D drawings of one new character."""
    strokes = _make_strokes(rng)
    jitter = rng.normal(0.0, _JITTER, size=(drawings, *strokes.shape))
    points = _sample_curves(strokes + jitter)
    turn = rng.uniform(-0.25, 0.25, size=drawings)  # radians
    scale = rng.uniform(0.75, 1.05, size=(drawings, 2))
    shear = rng.uniform(-0.2, 0.2, size=drawings)
    shift = rng.uniform(-2.5, 2.5, size=(drawings, 2))  # pixels
    x, y = points[..., 0], points[..., 1]
    x, y = scale[:, :1] * (x + shear[:, None] * y), scale[:, 1:] * y
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    half = (GLYPH_SIDE - 1) / 2
    reach = half - 3.5  # pixels from the centre to the edge of the unit square
    pixels = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) * reach
    return _rasterise(pixels + half + shift[:, None, :])


def _make_strokes(rng: np.random.Generator) -> _FloatArray:
    """[strokes, 3, 2]: control points of 2 to 4 quadratic Bezier curves in [-1, 1]^2.

    A stroke is long enough to be seen, and often starts where an earlier one ended.
    """
    strokes: list[_FloatArray] = []
    for _ in range(int(rng.integers(2, 5))):
        ends = rng.uniform(-1.0, 1.0, size=(2, 2))
        if strokes and rng.random() < 0.5:
            ends[0] = strokes[int(rng.integers(len(strokes)))][2]
        while np.hypot(*(ends[1] - ends[0])) < 0.8:
            ends[1] = rng.uniform(-1.0, 1.0, size=2)
        bend = rng.normal(0.0, 0.55, size=2) if rng.random() < 0.7 else np.zeros(2)
        middle = np.clip(ends.mean(axis=0) + bend, -1.3, 1.3)
        strokes.append(np.stack([ends[0], middle, ends[1]]))
    return np.stack(strokes)


def _sample_curves(strokes: _FloatArray) -> _FloatArray:
    """[D, strokes, 3, 2] control points -> [D, points, 2] along the curves."""
    t = np.linspace(0.0, 1.0, _POINTS)
    weights = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)
    points: _FloatArray = np.einsum("pk,dskc->dspc", weights, strokes)
    return points.reshape(len(strokes), -1, 2)


def _rasterise(points: _FloatArray) -> ByteArray:
    """[D, points, 2] pixel coordinates (x, y) -> [D, 28, 28], smooth discs around the points."""
    offsets = np.arange(-_REACH, _REACH + 1)
    cells = np.rint(points).astype(np.int64)[..., None] + offsets  # [D, points, 2, 5]
    gaps = cells - points[..., None]
    distance = np.hypot(gaps[:, :, 1, :, None], gaps[:, :, 0, None, :])  # [D, points, 5, 5] (y, x)
    ink = np.clip(_RADIUS + 0.5 - distance, 0.0, 1.0)
    # One cell of margin on every side takes what falls off the picture.
    y, x = (np.clip(cells[:, :, axis] + 1, 0, GLYPH_SIDE + 1) for axis in (1, 0))
    canvas = np.zeros((len(points), GLYPH_SIDE + 2, GLYPH_SIDE + 2))
    drawing = np.arange(len(points))[:, None, None, None]
    np.maximum.at(canvas, (drawing, y[:, :, :, None], x[:, :, None, :]), ink)
    return np.rint(255 * canvas[:, 1:-1, 1:-1]).astype(np.uint8)
