"""Whether a folder that the user named can be written to: told before any work, not after it."""

from __future__ import annotations

import os
from pathlib import Path


def check_folder(path: Path, key: str) -> None:
    """Makes nothing.

    Args:
        path: a folder, there already or to be made.
        key: the setting that it is from, for the message.

    Raises:
        ValueError: it is a file, lies in one, or can not be written to.
    """
    try:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
    except (OSError, ValueError) as error:  # a name that is too long, or no name at all
        raise ValueError(
            f"{key} must be a folder that can be made, got {str(path)!r} ({error}); "
            f"choose another {key}"
        ) from None
    if not there.is_dir():
        raise ValueError(
            f"{key} must be a folder, or one that can be made, got {path}, but {there} is a file; "
            f"choose another {key}"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"{key} must be a folder that can be written to, got {path}, but {there} is "
            f"read-only for this user; choose another {key}"
        )
