"""The data root: a folder, or a URL whose files are downloaded once into a folder.

A copy is complete or absent (written aside, then renamed), is of the size that the storage tells,
and has its time of change: so a file that is changed there is fetched again. Processes that want
the same one wait for each other, and one that was killed leaves nothing that could be mistaken.
What the files hold is unknown here.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmeta.addresses import (
    cache_folder,
    is_address,
    local_path,
    open_address,
    parent_of,
    reading,
    within,
)
from dmeta.tasks.status import MissingDataError

_LOG = logging.getLogger(__name__)

_ROOT, _FILE = "task.root (or DMETA_DATA)", "task.file"
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class DistantFile:
    """A file at an address.

    Attributes:
        address: of it.
        name: below the address that it was looked for at.
        size_bytes: None: the storage does not tell.
        changed: time of its last change, in seconds; None: the storage does not tell.
    """

    address: str
    name: str
    size_bytes: int | None
    changed: float | None

    def __str__(self) -> str:
        """For people."""
        if self.size_bytes is None:
            return self.address
        return f"{self.address} ({self.size_bytes / 1e6:,.1f} MB)"


def default_root() -> str:
    """The folder or address that holds the data sets: DMETA_DATA, else ./data."""
    return os.environ.get("DMETA_DATA") or "data"


def resolve_root(root: str | None, name: str, wanted: Sequence[Sequence[str]]) -> Path:
    """The folder that a source reads from.

    Args:
        root: the source's `root` option: a folder, which is returned as it is, or an address,
            whose files are fetched; None: `default_root()`.
        name: of the data set, for the message.
        wanted: files below an address; of each entry, names that are as good, the first that is
            there is fetched.

    Raises:
        MissingDataError: one of them is not at the address.
        ValueError: the address cannot be read, or not be opened.
    """
    root = default_root() if root is None else root
    if not is_address(root):
        return local_path(root)
    found = find_distant(root, wanted)
    for places, file in zip(wanted, found, strict=True):
        if file is None:
            raise MissingDataError(
                name,
                f"no {places[0]}",
                [within(root, place) for place in places],
                "copy it there (as a zip, where it is one), or correct the data root "
                "(DMETA_DATA or task.root)",
            )
    folder = copies_of(root)
    for file in filter(None, found):
        _fetch(file, folder / file.name, _ROOT)
    return folder


def own_file(value: str, key: str, what: str) -> Path:
    """A file of the user's own, on this machine; one at an address is fetched.

    Args:
        value: as the setting names it.
        key: the setting.
        what: the file must be, such as ``a table``.

    Raises:
        ValueError: there is none.
    """
    if not value:
        raise ValueError(f"{key} must be {what}, got nothing; set {key}=FILE")
    if is_address(value):
        return fetch_file(value, what)
    path = local_path(value)
    if not path.is_file():
        raise ValueError(f"{key} must be {what}, got {path}, which is no file; correct it")
    return path


def fetch_file(address: str, name: str) -> Path:
    """A copy of one file that ``task.file`` names by its address; `name` is of the data set.

    Raises:
        MissingDataError: it is not there.
        ValueError: the address cannot be read, or not be opened.
    """
    folder, filename = parent_of(address)
    [file] = find_distant(folder, [[filename]], _FILE)
    if file is None:
        raise MissingDataError(name, f"no {filename}", [address], f"correct {_FILE}")
    return _fetch(file, copies_of(folder) / filename, _FILE)


def find_distant(
    root: str, wanted: Sequence[Sequence[str]], key: str = _ROOT
) -> list[DistantFile | None]:
    """Of each entry of `wanted` (see `resolve_root`) the first file that is there, or None.

    Raises:
        ValueError: the address cannot be read, or not be opened.
    """
    files, folder = open_address(root, key)
    files.invalidate_cache()
    with reading(root, key):
        return [
            next(filter(None, (_look(files, folder, root, place) for place in places)), None)
            for places in wanted
        ]


def list_distant(root: str, folder: str, ending: str) -> list[DistantFile]:
    """The files of a folder below an address whose names end so, sorted.

    Raises:
        ValueError: the address cannot be read, or not be opened.
    """
    files, path = open_address(root, _ROOT)
    files.invalidate_cache()
    with reading(root, _ROOT):
        try:
            paths = files.ls(f"{path.rstrip('/')}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        names = sorted(str(each).rpartition("/")[2] for each in paths)
        wanted = [f"{folder}/{name}" for name in names if name.endswith(ending)]
        return [file for name in wanted if (file := _look(files, path, root, name)) is not None]


def copies_of(root: str) -> Path:
    """The folder of this machine that has the copies of what was fetched from an address."""
    digest = hashlib.sha256(root.rstrip("/").encode()).hexdigest()[:16]
    return cache_folder() / "data" / digest


def _look(files: Any, folder: str, root: str, name: str) -> DistantFile | None:
    path = f"{folder.rstrip('/')}/{name}"
    if {"..", ""} & set(name.split("/")):  # it would be copied to elsewhere
        return None
    try:
        info = files.info(path)
    except FileNotFoundError:
        return None
    if info.get("type") == "directory":
        return None
    try:
        changed = files.modified(path).timestamp()
    except NotImplementedError:
        changed = None
    return DistantFile(within(root, name), name, info.get("size"), changed)


def _fetch(file: DistantFile, copy: Path, key: str) -> Path:
    """The copy of a file, which is made if it is not there or not the file's any more."""
    with _alone_at(copy):
        if not _is_copy(copy, file):
            _LOG.info("fetching %s into %s", file, copy.parent)
            aside = copy.with_name(f".{copy.name}.part")
            _download(file, aside, key)
            if file.changed is not None:
                os.utime(aside, (file.changed, file.changed))
            aside.replace(copy)
    return copy


def _is_copy(copy: Path, file: DistantFile) -> bool:
    try:
        stat = copy.stat()
    except FileNotFoundError:
        return False
    same_size = file.size_bytes in (None, stat.st_size)
    # Not every file system keeps the last digits of a time.
    return same_size and (file.changed is None or abs(stat.st_mtime - file.changed) < 1)


def _download(file: DistantFile, path: Path, key: str) -> None:
    files, name = open_address(file.address, key)
    with path.open("wb") as out:
        with reading(file.address, key):
            source = files.open(name, "rb")
        with source:
            while piece := _read(source, file.address, key):
                out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    if file.size_bytes not in (None, path.stat().st_size):
        raise ValueError(
            f"{file.address} must have {file.size_bytes} bytes, as its storage says, got "
            f"{path.stat().st_size}; try again, or copy the file there again"
        )


def _read(source: Any, address: str, key: str) -> bytes:
    with reading(address, key):
        return bytes(source.read(_PIECE_BYTES))


@contextmanager
def _alone_at(copy: Path) -> Iterator[None]:
    """Wait for a process that makes the same copy; the lock of a process ends with it."""
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        lock = copy.with_name(f".{copy.name}.lock").open("wb")
    except OSError as error:
        raise ValueError(
            f"DMETA_CACHE (or ~/.cache/dmeta) must be a folder that can be written to, got "
            f"{cache_folder()} ({error}); set DMETA_CACHE to another one"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
