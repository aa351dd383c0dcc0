"""Check sums of the files that a run was begun with."""

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
    if expected not in (None, found):
        raise ValueError(
            f"task.file must be the file that the run was begun with (SHA-256 {expected}), got "
            f"{path} with {found}; set task.file to where that file is now, or begin another run "
            "with task.sha256=null"
        )
    return found
