"""Check sums of the data that a run was begun with."""

from __future__ import annotations

import hashlib
from pathlib import Path


def checked_digest(path: Path, expected: str | None) -> str:
    """The SHA-256 of a file that `task.file` names.

    Args:
        path: the file.
        expected: what it must be; None: anything.

    Raises:
        ValueError: it is another one.
    """
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    must = "task.file must be the file that the run was begun with"
    check_digest(found, expected, must, path)
    return found


def check_digest(found: str, expected: str | None, must: str, path: Path) -> None:
    """Raises ValueError if data have another check sum than those that a run was begun with."""
    if expected not in (None, found):
        raise ValueError(
            f"{must} (SHA-256 {expected}), got {path} with {found}; correct the path, or begin "
            "another run with task.sha256=null"
        )
