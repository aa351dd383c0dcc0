"""Reads images of any kind as 8-bit grey or colour squares, as a viewer shows them.

Turned as their EXIF data says; 16 bits a pixel scaled to 8; what is transparent on white. What the
images show is unknown here.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Fit: TypeAlias = Literal["crop", "stretch"]
"""How an image becomes a square."""

_KNOWN = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_DEPTH_16 = 2**16 - 1


def to_grey(image: Image.Image) -> Image.Image:
    """An image of mode ``L``.

    Raises:
        ValueError: its pixels are of a kind that has no fixed black and white.
    """
    plain = _plain(image)
    if plain.mode in ("1", "L"):
        return plain.convert("L")
    return plain.convert("RGB").convert("L")


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of mode ``RGB``; see `to_grey`."""
    return _plain(image).convert("RGB")


def to_square(
    image: Image.Image, *, side: int, channels: int, fit: Fit = "crop"
) -> npt.NDArray[np.uint8]:
    """Any image as [side, side] (grey) or [side, side, 3]; resized (Lanczos) if it must be.

    Args:
        image: see `to_grey`.
        side: height and width in pixels.
        channels: 1 (grey) or 3.
        fit: ``crop``: the middle of the image; ``stretch``: all of it.
    """
    plain = to_grey(image) if channels == 1 else to_rgb(image)
    if plain.size == (side, side):
        return np.asarray(plain)
    if fit == "crop":
        return np.asarray(ImageOps.fit(plain, (side, side), Image.Resampling.LANCZOS))
    return np.asarray(plain.resize((side, side), Image.Resampling.LANCZOS))


def _plain(image: Image.Image) -> Image.Image:
    """Upright, opaque, and at most 8 bits a channel."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        return _scaled(upright)
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        white = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(white, upright.convert("RGBA"))
    if upright.mode not in _KNOWN:
        raise ValueError(
            f"has pixels of mode {upright.mode}, whose black and white are not known; save it with "
            "8 or 16 bits a channel"
        )
    return upright


def _scaled(image: Image.Image) -> Image.Image:
    """16 bits a pixel to 8: Pillow's own conversion makes everything from 256 on white."""
    wide = np.asarray(image).astype(np.int64)
    if wide.min() < 0 or wide.max() > _DEPTH_16:
        raise ValueError(
            f"has pixels {wide.min()}..{wide.max()}, which must be in 0..{_DEPTH_16}; save it with "
            "8 or 16 bits a channel"
        )
    grey = (wide * 255 + _DEPTH_16 // 2) // _DEPTH_16
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))
