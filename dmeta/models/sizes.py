"""Checks of the sizes of networks."""

from __future__ import annotations


def check_sizes(**sizes: tuple[int, int]) -> None:
    """Raises ValueError if a size is too small.

    Args:
        sizes: option of the model -> (its value, the least that it may be).
    """
    for name, (value, least) in sizes.items():
        if value < least:
            raise ValueError(f"model.{name} must be >= {least}, got {value}; raise it")


def check_rates(**rates: float) -> None:
    """Raises ValueError if a rate is not in 0 .. 1, 1 left out.

    Args:
        rates: option of the model -> its value.
    """
    for name, value in rates.items():
        if not 0 <= value < 1:
            raise ValueError(f"model.{name} must be >= 0 and < 1, got {value}; change it")


MAX_LAYERS = 1000
"""More are refused: no network of these learns by gradients, and building them takes minutes."""


def check_depth(**counts: int) -> None:
    """Raises ValueError if there are too many layers.

    Args:
        counts: option of the model -> how many layers or blocks it asks for.
    """
    for name, count in counts.items():
        if count > MAX_LAYERS:
            raise ValueError(f"model.{name} must be <= {MAX_LAYERS}, got {count}; lower it")


def check_image(model: str, input_shape: tuple[int, ...], least_side: int, remedy: str) -> None:
    """Raises ValueError if the inputs are no images, or images that are too small.

    Args:
        model: its name.
        input_shape: of one input; an image's is (channels, height, width).
        least_side: of an image, in pixels.
        remedy: what to do about an image that is too small.
    """
    if len(input_shape) != 3:
        raise ValueError(
            f"model={model} must have images (channels, height, width), got inputs of shape "
            f"{input_shape}; choose model=mlp"
        )
    if min(input_shape[1:]) < least_side:
        raise ValueError(
            f"model={model} must have images of at least {least_side} pixels a side for so many "
            f"blocks, got {input_shape[1]}x{input_shape[2]}; {remedy}"
        )
