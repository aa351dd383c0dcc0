"""Sizes in bytes as a user writes and reads them."""

from __future__ import annotations

from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError


def parse_bytes(value: Any, key: str) -> int:
    """``2GB`` (10^9), ``1.5GiB`` (2^30), ``500MB`` or a whole number of bytes, as a number of them.

    Args:
        value: what the user gave.
        key: its name, for the message.

    Raises:
        ValueError: it is no size above 0.
    """
    try:
        if isinstance(value, bool):
            raise TypeError("a truth value")
        size = int(TypeAdapter(ByteSize).validate_python(value))
    except (ValidationError, TypeError):
        size = 0
    if size <= 0:
        raise ValueError(
            f"{key} must be a size such as 500MB, 2GB or 1.5GiB, or null, got {value!r}; change it"
        )
    return size


def shown_bytes(size_bytes: float) -> str:
    """A size with the largest unit it has one of: ``310.0 MiB``."""
    return ByteSize(size_bytes).human_readable(separator=" ")
