"""Folders that the user names: whether they can be written to, and those at a URL.

Of a run, or of a search.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmeta.addresses import cache_folder, is_address, local_path, within
from dmeta.runs.heartbeat import only_one_at
from dmeta.runs.layout import CONFIG, JOINT, LOG, METRICS
from dmeta.runs.remote_mirror import DistantFolder, Mirror

_LOG = logging.getLogger(__name__)

RUN_FILES = tuple(
    f"{folder}{name}" for folder in ("", f"{JOINT}/") for name in (CONFIG, METRICS, LOG)
)


@dataclass(frozen=True)
class RunPlace:
    """The folder of a run, or of a search.

    Attributes:
        folder: where to read and write: itself, or a copy of what is needed of one at an address.
        mirror: between that copy and the address; None: it is the folder itself.
        needed: names of the files that are.
    """

    folder: Path
    mirror: Mirror | None = None
    needed: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Path or address, as the user knows it."""
        return str(self.folder) if self.mirror is None else self.mirror.there.address

    def locate(self, file: str) -> str:
        """Path or address of a file of it."""
        return str(self.folder / file) if self.mirror is None else within(self.name, file)

    def has(self, file: str) -> bool:
        """Whether there is such a file."""
        if self.mirror is None:
            return (self.folder / file).exists()
        return self.mirror.there.has(file)

    def find(self, pattern: str) -> list[str]:
        """Names of what is in it and matches a pattern, sorted."""
        if self.mirror is not None:
            return self.mirror.there.find(pattern)
        found = sorted(self.folder.glob(pattern))
        return [path.relative_to(self.folder).as_posix() for path in found]

    def read(self, name: str) -> bytes | None:
        """The content of a file of it; None: there is none."""
        if self.mirror is not None:
            return self.mirror.there.read(name)
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def remove_file(self, name: str) -> None:
        """Delete a file of it; nothing if there is none."""
        (self.folder / name).unlink(missing_ok=True)
        if self.mirror is not None and self.mirror.there.has(name):
            self.mirror.there.remove(name)

    def rename(self, file: str, name: str) -> None:
        """Give a file of it another name."""
        if self.mirror is None:
            (self.folder / file).replace(self.folder / name)
        elif (content := self.mirror.there.read(file)) is not None:
            self.mirror.there.write(name, content)
            self.mirror.there.remove(file)

    def remove_folder(self, name: str) -> None:
        """Delete a folder in it; nothing if there is none."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        if self.mirror is not None:
            self.mirror.there.remove_folder(name)

    def push(self) -> None:
        """Copy what was written to the address, if it is at one.

        Raises:
            OSError: it cannot be written to.
        """
        if self.mirror is not None:
            self.mirror.push()

    def push_or_warn(self) -> None:
        """As `push`, where what cannot be copied now may come later."""
        try:
            self.push()
        except OSError as error:
            _LOG.warning("%s; it is tried again", error)


@contextlib.contextmanager
def run_place(run_dir: str | Path, needed: Sequence[str] = RUN_FILES) -> Iterator[RunPlace]:
    """The folder of a run at hand; of one at an address what there is of the files that are needed.

    Args:
        run_dir: path or address.
        needed: names of files; of a run all but its checkpoints.

    Raises:
        ValueError: it is at an address that cannot be read, or not be opened.
    """
    if not is_address(run_dir):
        yield RunPlace(local_path(run_dir))
        return
    there = DistantFolder(str(run_dir))
    copies = cache_folder() / "runs"
    check_folder(copies, "DMETA_CACHE")
    copies.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=copies))
    try:
        mirror = Mirror(folder, there)
        mirror.fetch(needed)
        yield RunPlace(folder, mirror, needed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def training_at(place: RunPlace) -> Iterator[None]:
    """Of a run at an address: keep other trainings from it, and leave there what was written.

    Raises:
        RunLocked: another training lives there.
        OSError: what was written cannot be copied there.
    """
    if place.mirror is None:
        yield
        return
    with only_one_at(place.mirror.there):
        place.mirror.fetch(place.needed)  # another may have come to its end meanwhile
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # report the error that ended the run
                place.push()
            raise
        place.push()


def check_folder(path: Path, key: str) -> None:
    """Check that a folder is there or can be made; leaves nothing behind.

    Args:
        path: a folder, there already or to be made.
        key: the setting that it is from, for the message.

    Raises:
        ValueError: it is a file, lies in one, or cannot be written to.
    """
    try:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
    except (OSError, ValueError) as error:  # a name that is too long, or no name at all
        raise ValueError(
            f"{key} must be a folder that can be made, got {str(path)!r} ({error}); "
            f"choose another {key}"
        ) from None
    if not there.is_dir():
        raise ValueError(
            f"{key} must be a folder, or one that can be made, got {path}, but {there} is a file; "
            f"choose another {key}"
        )
    missing = [each for each in (path, *path.absolute().parents) if not each.exists()]
    if missing:
        try:  # that the user may write there does not say that a folder can be made (/proc)
            missing[-1].mkdir()
            missing[-1].rmdir()
        except PermissionError:
            pass  # said below
        except OSError as error:
            raise ValueError(
                f"{key} must be a folder that can be made, got {str(path)!r} ({error}); "
                f"choose another {key}"
            ) from None
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"{key} must be a folder that can be written to, got {path}, but {there} is "
            f"read-only for this user; choose another {key}"
        )
