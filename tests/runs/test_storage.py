"""Folders of files, whole or absent: on a disk, and in an object store."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from dmeta.runs.storage import (
    DiskStorage,
    Folders,
    ObjectStorage,
    Storage,
    open_storage,
)

FOLDERS = Folders(re.compile(r"step-\d+"), completed_by="done")
FILES = {"data": b"first", "done": b""}


@pytest.fixture(params=["disk", "file://", "memory://", "pyarrow"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "pyarrow":  # as s3:// is where s3fs is not installed
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import LocalFileSystem

        return ObjectStorage(ArrowFSWrapper(LocalFileSystem()), str(tmp_path), FOLDERS)
    location = str(tmp_path) if request.param == "disk" else f"{request.param}{tmp_path}"
    if request.param == "memory://":
        location = f"memory://{uuid.uuid4()}/run"
    return open_storage(location, FOLDERS)


def test_what_is_written_is_listed_and_read(storage: Storage) -> None:
    assert storage.names() == []
    storage.write("step-1", FILES)
    storage.write("step-2", {"data": b"second", "done": b""})
    assert sorted(storage.names()) == ["step-1", "step-2"]
    assert (storage.read("step-1", "data"), storage.read("step-2", "data")) == (b"first", b"second")
    assert "step-1" in storage.locate("step-1")


def test_writing_again_replaces_every_file(storage: Storage) -> None:
    storage.write("step-1", {"data": b"first", "more": b"of it", "done": b""})
    storage.write("step-1", {"data": b"new", "done": b""})
    assert storage.read("step-1", "data") == b"new"
    with pytest.raises(OSError, match="step-1"):
        storage.read("step-1", "more")


def test_what_is_removed_is_gone_and_removing_nothing_does_nothing(storage: Storage) -> None:
    storage.write("step-1", FILES)
    storage.remove("step-1")
    storage.remove("step-1")
    assert storage.names() == []
    with pytest.raises(OSError, match="step-1"):
        storage.read("step-1", "data")


def test_other_folders_are_neither_listed_nor_removed(tmp_path: Path) -> None:
    for storage in (open_storage(str(tmp_path), FOLDERS), as_objects(tmp_path)):
        (tmp_path / ".git").mkdir(exist_ok=True)
        (tmp_path / "mine").mkdir(exist_ok=True)
        storage.write("step-1", FILES)
        assert storage.names() == ["step-1"]
        storage.remove_unfinished()
        assert {path.name for path in tmp_path.iterdir()} == {".git", "mine", "step-1"}


def as_objects(directory: Path) -> ObjectStorage:
    from fsspec.implementations.local import LocalFileSystem

    return ObjectStorage(LocalFileSystem(), str(directory), FOLDERS)


def test_an_object_store_has_no_folder_without_its_completing_file(tmp_path: Path) -> None:
    storage = as_objects(tmp_path)
    storage.write("step-1", FILES)
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2" / "data").write_bytes(b"half")
    assert storage.names() == ["step-1"]
    storage.remove_unfinished()
    assert not (tmp_path / "step-2").exists()


def test_a_full_disk_leaves_what_was_there_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = DiskStorage(tmp_path, FOLDERS)
    storage.write("step-1", FILES)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for name in ("step-1", "step-2"):
            with pytest.raises(OSError, match="No space left"):
                storage.write(name, {"data": b"second", "done": b""})
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert storage.read("step-1", "data") == b"first"


@pytest.mark.parametrize(
    "location", ["nonsense://bucket/run", "s4://bucket", "abfsss://container/run"]
)
def test_an_address_that_nothing_opens_is_refused(location: str) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.location must be a path, or an address"):
        open_storage(location, FOLDERS)


KILLED = """
import os, re, signal, sys
from pathlib import Path
from dmeta.runs.storage import DiskStorage, Folders

left = int(sys.argv[2])
def dying(call):
    def wrapper(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return wrapper

for name in ("mkdir", "open", "write", "fsync", "close", "rename", "rmdir", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
folders = Folders(re.compile(r"step-[0-9]+"), completed_by="done")
DiskStorage(Path(sys.argv[1]), folders).write("step-1", {"data": b"second", "done": b"2"})
"""


def test_a_writer_killed_at_any_moment_leaves_the_old_folder_the_new_one_or_none(
    tmp_path: Path,
) -> None:
    """At every call of the operating system that goes through Python's os module."""
    seen = set()
    for moment in range(0, 40, 2):
        directory = tmp_path / str(moment)
        storage = DiskStorage(directory, FOLDERS)
        storage.write("step-1", {"data": b"first", "done": b"1"})
        done = subprocess.run([sys.executable, "-c", KILLED, str(directory), str(moment)])
        content = b""
        if storage.names():
            content = storage.read("step-1", "data")
            assert storage.read("step-1", "done") == {b"first": b"1", b"second": b"2"}[content]
        seen.add(content)
        storage.remove_unfinished()
        assert {path.name for path in directory.iterdir()} <= {"step-1"}
        if done.returncode == 0:
            break
    assert seen >= {b"first", b"second"}
