"""Files of plain arrays (npz): written completely or not at all; reading executes nothing."""

from __future__ import annotations

import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
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
    struct.error,  # a header that ends too soon
    zipfile.BadZipFile,
    zlib.error,
)
"""What `numpy.load` raises for a file that is damaged, or none of these."""


MAX_RATIO, FREE_BYTES = 100, 256 << 20
"""A file may unpack to this many times its size, and in any case to this many bytes: of 2 MB,
deflate can make 2 GB. ``numpy.savez`` does not compress, so what it writes is never refused."""


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """The named arrays of a file.

    Raises:
        One of `READ_ERRORS`: it is damaged, has other things than plain arrays, lacks a name, or
            would unpack to far more than its size.
    """
    with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        members = found.zip.infolist()
        unpacked = sum(member.file_size for member in members)
        packed = sum(member.compress_size for member in members)
        if unpacked > max(FREE_BYTES, MAX_RATIO * packed):
            raise ValueError(
                f"its {packed / 1e6:,.1f} MB unpack to {unpacked / 1e6:,.0f} MB, more than "
                f"{MAX_RATIO} times as much; if that is meant, save it with numpy.savez"
            )
        arrays = {name: found[name] for name in names}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # bytes, of a member that is no array
            raise ValueError(f"{name} is no array")
    return arrays


def map_array(path: Path, name: str) -> npt.NDArray[Any]:
    """One array of a file that `write_arrays` wrote, mapped into memory: read when it is used.

    Its pages are the operating system's, shared by all processes that map it, and need not fit into
    memory. The file must not be changed in place while it is used; to replace it is fine.

    Args:
        path: the file.
        name: of the array.

    Returns:
        read-only; its check sum was verified.

    Raises:
        One of `READ_ERRORS`: the file is damaged, or the array is compressed or no plain array.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        file.seek(member.header_offset)
        header = file.read(_ZIP_HEADER_BYTES)
        lengths = struct.unpack(_ZIP_LENGTHS, header[-4:])
        start = member.header_offset + _ZIP_HEADER_BYTES + sum(lengths)
        content = np.memmap(file, np.uint8, "r", start, (member.file_size,))
        if _check_sum(content) != member.CRC:
            raise zipfile.BadZipFile(f"bad check sum of {name}")
        file.seek(start)
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name} has a header of version {version}")
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
        if in_columns or dtype.hasobject:
            raise ValueError(f"{name} is no plain array")
        return content[file.tell() - start :].view(np.ndarray).view(dtype).reshape(shape)


_ZIP_HEADER_BYTES, _ZIP_LENGTHS = 30, "<HH"
"""Of the local header of a member, whose last numbers are the lengths of what follows it."""

_CHUNK_BYTES = 1 << 26


def _check_sum(content: npt.NDArray[np.uint8]) -> int:
    found = 0
    for start in range(0, len(content), _CHUNK_BYTES):
        found = zlib.crc32(content[start : start + _CHUNK_BYTES].data, found)
    return found


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes a file next to `path` and renames it, so that no reader ever sees half a file."""
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
