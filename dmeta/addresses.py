"""Addresses of files elsewhere, such as ``s3://bucket/folder``, and where copies of them are kept.

Opened through fsspec or pyarrow. Knows not what the files are of.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HERE = ("file", "local")


def cache_folder() -> Path:
    """Where copies are kept, on this machine: DMETA_CACHE, else ~/.cache/dmeta (or as XDG says)."""
    if own := os.environ.get("DMETA_CACHE"):
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path("~/.cache").expanduser()) / "dmeta"


def is_address(location: str | Path) -> bool:
    """Whether it is no path of this machine's."""
    scheme, separator, _ = str(location).partition("://")
    return bool(separator) and scheme not in _HERE


def local_path(location: str | Path) -> Path:
    """The path that a location is which is no address; ``file://`` and ``~`` are understood."""
    assert not is_address(location)
    scheme, separator, rest = str(location).partition("://")
    # Not Path.expanduser, which raises where there is no such user.
    return Path(os.path.expanduser(rest if separator else scheme))  # noqa: PTH111


def folder_here(location: str | Path, key: str) -> Path:
    """The folder that a setting names which cannot be an address.

    Raises:
        ValueError: it is one.
    """
    if is_address(location):
        raise ValueError(
            f"{key} must be a folder that this machine sees, got the address {location}; choose a "
            "path (data roots and run_dir may be addresses)"
        )
    return local_path(location)


def redacted(text: str) -> str:
    """A text with addresses, without the passwords and keys that may be in them."""
    text = re.sub(r"(?<=://)[^/\s?#@]*(:[^/\s?#]*)?@", "***@", text)
    return re.sub(
        r"([?&][^=&\s]*(?:key|secret|token|password|passwd|signature|credential)[^=&\s]*=)[^&\s'\"]*",
        r"\1***",
        text,
        flags=re.IGNORECASE,
    )


def open_address(location: str, key: str) -> tuple[Any, str]:
    """An fsspec file system, and the path in it that an address is of.

    Args:
        location: what fsspec or, where fsspec lacks the package for it, pyarrow can open.
        key: the setting that it is from, for the message.

    Raises:
        ValueError: no package here can open such an address.
    """
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(location)
        return files, str(root)
    except ImportError as error:  # s3fs, gcsfs, ...: pyarrow, which Ray brings, has some built in
        missing = error
    except ValueError as error:
        raise _unknown(location, key, error) from None
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import FileSystem

        arrow, root = FileSystem.from_uri(location)
    except (ImportError, ValueError, OSError):
        raise _unknown(location, key, missing) from None
    return ArrowFSWrapper(arrow), str(root)


def within(location: str, name: str) -> str:
    """The location of a file or folder in another; the query of an address stays at its end."""
    mark = "?" if "://" in location else "\0"
    path, mark, query = location.partition(mark)
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def last_part(location: str) -> str:
    """The last part of a path or an address."""
    path = location.partition("?")[0] if is_address(location) else location
    return path.rstrip("/").rpartition("/")[2]


def open_arrow(location: str, key: str) -> tuple[Any, str]:
    """As `open_address`, the file system as one of pyarrow's."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    files, root = open_address(location, key)
    own = getattr(files, "fs", None) if type(files).__name__ == "ArrowFSWrapper" else None
    return own or PyFileSystem(FSSpecHandler(files)), root


def parent_of(address: str) -> tuple[str, str]:
    """The address of the folder that a file is in, and the file's name: undoes `within`."""
    path, mark, query = address.partition("?")
    folder, _, name = path.rpartition("/")
    return f"{folder}{mark}{query}", name


@contextmanager
def reading(address: str, key: str) -> Iterator[None]:
    """Let what a storage raises say which address it is about, and what to do.

    Of any kind: each storage has its own, and not all of them are OSErrors.

    Raises:
        ValueError: it cannot be read: no right to it, above all.
    """
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {redacted(str(error).strip())}"
        raise ValueError(
            f"{key} must be an address that this machine can read, got {redacted(address)} "
            f"({reason}); correct it, or give the storage's credentials and endpoint (of s3: "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        ) from error


def _unknown(location: str, key: str, error: Exception) -> ValueError:
    return ValueError(
        f"{key} must be a path, or an address that fsspec or pyarrow can open, got "
        f"{redacted(location)} ({error}); install the package, or choose another location"
    )
