"""Check sums of the data that a run was begun with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


def checked_digest(paths: Sequence[Path], expected: str | None) -> str:
    """The SHA-256 of the files that `task.file` and its companions name.

    Args:
        paths: the files.
        expected: what it must be; None: anything.

    Returns:
        of one file its SHA-256, of several that of their SHA-256s in a row.

    Raises:
        ValueError: it is another one.
    """
    each = []
    for path in paths:
        with path.open("rb") as content:
            each.append(hashlib.file_digest(content, "sha256").hexdigest())
    found = each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()
    must = "task.file must be the file that the run was begun with"
    check_digest(found, expected, must, paths[0])
    return found


def check_digest(found: str, expected: str | None, must: str, path: Path) -> None:
    """Raises ValueError if data have another check sum than those that a run was begun with."""
    if expected not in (None, found):
        raise ValueError(
            f"{must} (SHA-256 {expected}), got {path} with {found}; correct the path, or begin "
            "another run with task.sha256=null"
        )
