"""Writes to a disk that may be full: complete pieces, and errors that name the file."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError, of a write say, tell which file it is about."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write a file aside, flush it to the disk, and rename: a kill leaves the old one or the new.

    Raises:
        OSError: it could not be written; what was there is as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            write_flushed(aside, content)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_torn(path: Path) -> bool:
    """Whether a file of lines ends within one."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


class AppendedFile:
    """Pieces are written at once, each whole; what cannot be written waits for the next piece.

    A reader, or a kill, at any moment finds at most the last piece torn.
    """

    def __init__(self, path: Path) -> None:
        """Append to the file, which is made if it is not there.

        Raises:
            OSError: it cannot be opened.
        """
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._size = self._file.seek(0, os.SEEK_END)
        self._waiting: list[bytes] = []
        self._told = False

    def append(self, piece: bytes) -> None:
        """Write a piece, after those that wait."""
        self._waiting.append(piece)
        content = memoryview(b"".join(self._waiting))
        try:
            written = 0
            while written < len(content):  # a disk that fills up takes the first part of it
                written += self._file.write(content[written:])
        except OSError as error:
            os.ftruncate(self._file.fileno(), self._size)
            if not self._told:
                _LOG.warning("cannot write to %s (%s); trying again later", self._path, error)
            self._told = True
            return
        self._size += len(content)
        self._waiting.clear()
        self._told = False

    def close(self) -> None:
        """Try once more to write what waits, and say what is lost."""
        if self._waiting:
            self.append(b"")
        if self._waiting:
            lost = sum(map(len, self._waiting))
            _LOG.warning("%d bytes could not be written to %s", lost, self._path)
        self._file.close()
