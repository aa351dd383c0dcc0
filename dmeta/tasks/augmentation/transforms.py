"""The named augmentations: transforms of torchvision, with the options that papers set.

Each factory is called with `input_shape`, (C, H, W) of the images, and imports torchvision.
"""

# ruff: noqa: ARG001 - the argument is every factory's

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from dmeta.torchvision_compat import import_transforms


def crop(
    *,
    input_shape: tuple[int, ...],
    padding: NonNegativeInt = 8,
    padding_mode: Literal["constant", "edge", "reflect", "symmetric"] = "constant",
) -> Any:
    """Pad on all sides, then cut a part of the image's own size at random.

    Args:
        input_shape: of the images.
        padding: on each side, in pixels; 8 is usual for 84x84, 4 for 32x32.
        padding_mode: what the border is filled with; ``constant``: black.
    """
    size = input_shape[1:]
    return import_transforms().RandomCrop(size, padding=padding, padding_mode=padding_mode)


def resized_crop(
    *, input_shape: tuple[int, ...], scale: tuple[NonNegativeFloat, NonNegativeFloat] = (0.08, 1.0)
) -> Any:
    """Cut a part of random area, shape and place, and resize it to the image's own size.

    Args:
        input_shape: of the images.
        scale: least and largest area of the part, as a share of the image's.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"scale must be two shares of the area, 0 < least <= largest <= 1, got "
            f"{list(scale)}; set it to [0.2, 1.0]"
        )
    return import_transforms().RandomResizedCrop(input_shape[1:], scale=scale)


def flip(
    *,
    input_shape: tuple[int, ...],
    p: NonNegativeFloat = 0.5,
    direction: Literal["horizontal", "vertical"] = "horizontal",
) -> Any:
    """Mirror an image at random.

    Args:
        input_shape: of the images.
        p: probability, 0 to 1.
        direction: ``horizontal``: left becomes right.
    """
    v2 = import_transforms()
    made = v2.RandomHorizontalFlip if direction == "horizontal" else v2.RandomVerticalFlip
    return made(p)


def color(
    *,
    input_shape: tuple[int, ...],
    brightness: NonNegativeFloat = 0.4,
    contrast: NonNegativeFloat = 0.4,
    saturation: NonNegativeFloat = 0.4,
    hue: NonNegativeFloat = 0.0,
) -> Any:
    """Change brightness, contrast, saturation and hue at random, in random order.

    Args:
        input_shape: of the images.
        brightness: it is multiplied by a number in 1 - brightness .. 1 + brightness.
        contrast: likewise.
        saturation: likewise; of no effect on grey images.
        hue: turned by at most this share of the colour circle, 0 to 0.5; slow: three times the
            time of the others.
    """
    return import_transforms().ColorJitter(brightness, contrast, saturation, hue)


def rand_augment(
    *, input_shape: tuple[int, ...], num_ops: PositiveInt = 2, magnitude: NonNegativeInt = 9
) -> Any:
    """Apply a few changes, chosen of 14: shears, shifts, turns, colours, contrasts.

    Args:
        input_shape: of the images.
        num_ops: how many, one after the other.
        magnitude: of each, 0 to 30.
    """
    return import_transforms().RandAugment(num_ops=num_ops, magnitude=magnitude)
