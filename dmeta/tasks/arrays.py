"""Files of plain arrays (npz): written whole or not at all; nothing in them can be executed."""

from __future__ import annotations

import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

READ_ERRORS = (
    OSError,
    ValueError,  # an array that would have to be unpickled
    KeyError,  # an array that the file does not have
    EOFError,
    MemoryError,  # a header that promises more than there is
    TypeError,  # a single array
    RuntimeError,  # an encrypted member, or an unknown way to compress
    zipfile.BadZipFile,
    zlib.error,
)
"""What `numpy.load` raises for a file that is damaged, or none of these."""


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes beside `path` and renames, so that no reader ever sees half a file."""
    members: dict[str, Any] = dict(arrays)
    assert all(array.dtype != object for array in members.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with aside.open("xb") as file:
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
