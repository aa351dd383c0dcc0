"""Stores folders of files, each written completely or not at all: a disk or an object store.

Knows bytes and names, not what they are of.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dmeta.addresses import is_address, local_path, open_address
from dmeta.runs.files import flush_folder, naming, write_flushed

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Folders:
    """Which folders belong to a storage; other files and folders there do not.

    Attributes:
        name: what their names match.
        completed_by: the file without which one is not whole.
    """

    name: re.Pattern[str]
    completed_by: str


class Storage(Protocol):
    """Named folders of files. A listing shows complete ones only."""

    def names(self) -> list[str]:
        """Of the folders; unfinished ones left out."""
        ...

    def write(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write a folder, in place of one of that name; the last of `files` completes it.

        Raises:
            OSError: it could not be written; what was there is as it was, or gone.
        """
        ...

    def read(self, name: str, file: str) -> bytes:
        """The content of a file.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        ...

    def remove(self, name: str) -> None:
        """Delete a folder; nothing if there is none."""
        ...

    def remove_unfinished(self) -> None:
        """Delete what writers that were killed left behind; nobody must be writing there."""
        ...

    def locate(self, name: str) -> str:
        """Path or address of a folder, for people."""
        ...


def open_storage(location: str, folders: Folders) -> Storage:
    """The storage at a path, or at an address such as ``s3://bucket/folder``.

    Args:
        location: what fsspec or, where fsspec lacks the package for it, pyarrow can open.
        folders: those that belong to it.

    Raises:
        ValueError: no package here can open such an address.
    """
    if not is_address(location):
        return DiskStorage(local_path(location), folders)
    return ObjectStorage(*open_address(location, "checkpoint.location"), folders)


class DiskStorage:
    """Folders in a directory: written aside, flushed to the disk, and renamed."""

    def __init__(self, directory: Path, folders: Folders) -> None:
        self._directory, self._folders = directory, folders

    def names(self) -> list[str]:
        """See `Storage`."""
        if not self._directory.is_dir():
            return []
        return [
            path.name
            for path in self._directory.iterdir()
            if self._folders.name.fullmatch(path.name) and path.is_dir()
        ]

    def write(self, name: str, files: Mapping[str, bytes]) -> None:
        """See `Storage`; a kill at any moment leaves the old folder, the new one, or neither."""
        self._directory.mkdir(parents=True, exist_ok=True)
        final, aside = self._directory / name, self._aside(name, "new")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir()
            for file, content in files.items():
                with naming(aside / file):
                    write_flushed(aside / file, content)
            flush_folder(aside)
            self.remove(name)
            aside.rename(final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)  # of a full disk, above all
            raise
        flush_folder(self._directory)

    def read(self, name: str, file: str) -> bytes:
        """See `Storage`."""
        return (self._directory / name / file).read_bytes()

    def remove(self, name: str) -> None:
        """See `Storage`; a folder that is half removed is not listed."""
        aside = self._aside(name, "old")
        with contextlib.suppress(FileNotFoundError):
            (self._directory / name).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def remove_unfinished(self) -> None:
        """See `Storage`."""
        for path in self._directory.glob(f".*{_UNFINISHED}"):
            shutil.rmtree(path, ignore_errors=True)

    def locate(self, name: str) -> str:
        """See `Storage`."""
        return str(self._directory / name)

    def _aside(self, name: str, why: str) -> Path:
        return self._directory / f".{name}.{os.getpid()}.{why}{_UNFINISHED}"


class ObjectStorage:
    """Folders in an object store, which cannot rename: the completing file is written last."""

    def __init__(self, files: Any, root: str, folders: Folders) -> None:
        """In the fsspec file system `files`, below `root`."""
        self._files, self._root, self._folders = files, root.rstrip("/"), folders

    def names(self) -> list[str]:
        """See `Storage`."""
        return [name for name in self._found() if self._is_whole(name)]

    def write(self, name: str, files: Mapping[str, bytes]) -> None:
        """See `Storage`."""
        self.remove(name)
        self._files.makedirs(self._path(name), exist_ok=True)
        for file, content in files.items():
            self._files.pipe_file(self._path(name, file), content)

    def read(self, name: str, file: str) -> bytes:
        """See `Storage`."""
        return bytes(self._files.cat_file(self._path(name, file)))

    def remove(self, name: str) -> None:
        """See `Storage`; the completing file goes first."""
        if self._is_whole(name):
            self._files.rm_file(self._path(name, self._folders.completed_by))
        if self._files.exists(self._path(name)):
            self._files.rm(self._path(name), recursive=True)
        self._files.invalidate_cache()

    def remove_unfinished(self) -> None:
        """See `Storage`."""
        for name in self._found():
            if not self._is_whole(name):
                self.remove(name)

    def locate(self, name: str) -> str:
        """See `Storage`."""
        return str(self._files.unstrip_protocol(self._path(name)))

    def _found(self) -> list[str]:
        self._files.invalidate_cache()
        if not self._files.exists(self._root):
            return []
        paths = self._files.ls(self._root, detail=False)
        names = (str(path).rstrip("/").rpartition("/")[2] for path in paths)
        return [name for name in names if self._folders.name.fullmatch(name)]

    def _is_whole(self, name: str) -> bool:
        return bool(self._files.exists(self._path(name, self._folders.completed_by)))

    def _path(self, *parts: str) -> str:
        return "/".join([self._root, *parts])
