"""Sizes of networks, refused where they make no network."""

from __future__ import annotations


def check_sizes(**sizes: tuple[int, int]) -> None:
    """Raises ValueError if a size is too small.

    Args:
        sizes: option of the model -> (its value, the least that it may be).
    """
    for name, (value, least) in sizes.items():
        if value < least:
            raise ValueError(f"model.{name} must be >= {least}, got {value}; raise it")
