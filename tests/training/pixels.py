"""What is to be seen in a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def has_colour(path: Path, colour: str) -> bool:
    """Whether some pixels are (nearly) of the colour ``#rrggbb``."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels - wanted).max(axis=-1) <= 6).sum()) > 50
