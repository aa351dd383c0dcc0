"""The folder where a cluster of our own keeps its logs, sockets and unpacked files.

Ray's own choice, /tmp/ray, can be written to by every user of the machine (0777): a user who
replaces a file there runs programs as this user.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

_PREFIX = "dmeta-ray-"

# An AF_UNIX socket's path has at most 107 bytes (103 on macOS), of which Ray takes:
# /r/session_2026-11-28_17-45-29_186028_4194304/sockets/plasma_store.1
_LONGEST = 103 - 69

_TRIES, _BETWEEN_S = 5, 0.2


def make_session_folder() -> Path:
    """A new folder for this user alone (0700), whose path is short enough for Ray's sockets.

    In RAY_TMPDIR or the usual folder for temporary files, else in /tmp.

    Raises:
        ValueError: there is no room for it.
    """
    usual = (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp")
    length = len(_PREFIX) + 1 + 8  # of the random part
    short = [each for each in usual if each and len(os.fsencode(each)) + length <= _LONGEST]
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=short[0]))
    except OSError as error:
        raise ValueError(
            f"Ray must have a folder for its sessions, got {error}; make {short[0]} writable, or "
            f"set RAY_TMPDIR or TMPDIR to a folder of at most {_LONGEST - length} characters"
        ) from None


def remove_session_folder(folder: Path) -> None:
    """Delete the folder of a cluster that was shut down; its last processes may still be ending."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_BETWEEN_S)
