"""A run's folder at a URL, such as ``s3://bucket/runs/x``.

An object store cannot append to a file, so a run works in a folder of this machine, and what it
writes is copied before each checkpoint and at its end: the files there reach at least as far as
the last checkpoint there. Checkpoints themselves go there directly (`dmeta.runs.storage`).
"""

from __future__ import annotations

import glob
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmeta.addresses import open_address, reading
from dmeta.runs.storage import Storage

_KEY = "run_dir"


class DistantFolder:
    """Small files below an address, each read and written whole."""

    def __init__(self, address: str) -> None:
        """Reads nothing yet.

        Raises:
            ValueError: no package here can open such an address.
        """
        self.address = address
        files, root = open_address(address, _KEY)
        self._files: Any = files
        self._root = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """The content of a file; None: there is none.

        Raises:
            ValueError: the address cannot be read.
        """
        self._files.invalidate_cache()
        with reading(self.address, _KEY):
            try:
                return bytes(self._files.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def written_at(self, name: str) -> float | None:
        """When a file was written, in seconds since 1970.

        None: the storage does not say, or there is no such file (any more).

        Raises:
            ValueError: the address cannot be read.
        """
        self._files.invalidate_cache()
        with reading(self.address, _KEY):
            try:
                return float(self._files.modified(f"{self._root}/{name}").timestamp())
            except (NotImplementedError, FileNotFoundError):
                return None

    def has(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            ValueError: the address cannot be read.
        """
        self._files.invalidate_cache()
        with reading(self.address, _KEY):
            return bool(self._files.exists(f"{self._root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises:
            OSError: the storage does not let it.
        """
        path = f"{self._root}/{name}"
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, content)
        except Exception as error:  # each storage has its own
            reason = f"{type(error).__name__}: {str(error).strip()}"
            raise OSError(f"cannot write {name} to {self.address} ({reason})") from error

    def remove(self, name: str) -> None:
        """Delete a file."""
        self._files.rm_file(f"{self._root}/{name}")

    def find(self, pattern: str) -> list[str]:
        """Names of what matches a pattern such as ``*/result.json``, sorted.

        Raises:
            ValueError: the address cannot be read.
        """
        self._files.invalidate_cache()
        with reading(self.address, _KEY):
            here = glob.escape(self._root)
            paths = (str(path) for path in self._files.glob(f"{here}/{pattern}"))
            return sorted(path.partition(f"{self._root}/")[2] for path in paths)

    def remove_folder(self, name: str) -> None:
        """Delete a folder with all that is in it; nothing if there is none."""
        if self.has(name):
            self._files.rm(f"{self._root}/{name}", recursive=True)


class Mirror:
    """A folder of this machine and its copy at an address."""

    def __init__(self, folder: Path, there: DistantFolder) -> None:
        """Copies nothing yet."""
        self.folder, self.there = folder, there
        self._copied: dict[str, tuple[int, int]] = {}  # size and time of change by then
        self._lock = threading.Lock()

    def fetch(self, names: Sequence[str]) -> None:
        """Copy those files from the address that are there.

        Raises:
            ValueError: the address cannot be read.
        """
        for name in names:
            content, path = self.there.read(name), self.folder / name
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                self._copied[name] = _state(path)

    def push(self) -> None:
        """Copy the files that are new or were changed; any thread may.

        Raises:
            OSError: the address cannot be written to.
        """
        with self._lock:
            for path in sorted(self.folder.rglob("*")):
                if path.name.startswith(".") or not path.is_file():  # being written aside
                    continue
                name, state = path.relative_to(self.folder).as_posix(), _state(path)
                if self._copied.get(name) != state:
                    self.there.write(name, path.read_bytes())
                    self._copied[name] = state


class MirroredStorage:
    """A run's checkpoints; before each is written, what else the run wrote is copied."""

    def __init__(self, storage: Storage, mirror: Mirror) -> None:
        """Keep them in `storage`."""
        self._storage, self._mirror = storage, mirror

    def names(self) -> list[str]:
        """See `Storage`."""
        return self._storage.names()

    def write(self, name: str, files: Mapping[str, bytes]) -> None:
        """See `Storage`."""
        self._mirror.push()
        self._storage.write(name, files)

    def read(self, name: str, file: str) -> bytes:
        """See `Storage`."""
        return self._storage.read(name, file)

    def remove(self, name: str) -> None:
        """See `Storage`."""
        self._storage.remove(name)

    def remove_unfinished(self) -> None:
        """See `Storage`."""
        self._storage.remove_unfinished()

    def locate(self, name: str) -> str:
        """See `Storage`."""
        return self._storage.locate(name)


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
