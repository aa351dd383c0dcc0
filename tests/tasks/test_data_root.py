"""A data root that is an address: its files are fetched once, whole, and read as from a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from dmeta.tasks import data_root, omniglot
from dmeta.tasks.data_root import copies_of, default_root, resolve_root
from dmeta.tasks.features import load_features
from dmeta.tasks.inventory import inventory
from dmeta.tasks.miniimagenet import load_miniimagenet
from dmeta.tasks.omniglot import load_omniglot
from dmeta.tasks.status import MissingDataError
from tests.tasks.conftest import TINY_PARTS, write_tiny_features, zip_tree

WANTED = [["a/one.zip", "one.zip"], ["two.zip"]]


@pytest.fixture
def address() -> Iterator[str]:
    """A data root in memory, of this test alone."""
    address = f"memory://{uuid.uuid4().hex}/data"
    yield address
    put(address, "two.zip", b"")
    files, path = fsspec.core.url_to_fs(address)
    files.rm(path, recursive=True)


def put(address: str, name: str, content: bytes) -> None:
    files, path = fsspec.core.url_to_fs(f"{address}/{name}")
    files.pipe_file(path, content)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are downloaded from now on."""
    seen: list[str] = []
    download = data_root._download

    def counted(file: data_root.DistantFile, path: Path, key: str) -> None:
        seen.append(file.name)
        download(file, path, key)

    monkeypatch.setattr(data_root, "_download", counted)
    return seen


def test_files_are_fetched_once_and_the_first_of_those_as_good(
    address: str, downloads: list[str]
) -> None:
    for name in ("a/one.zip", "one.zip", "two.zip", "other.zip"):
        put(address, name, name.encode())
    folder = resolve_root(address, "toy", WANTED)
    assert resolve_root(f"{address}/", "toy", WANTED) == folder == copies_of(address)
    assert downloads == ["a/one.zip", "two.zip"]
    assert (folder / "a" / "one.zip").read_bytes() == b"a/one.zip"


def test_a_file_that_is_changed_there_is_fetched_again(address: str, downloads: list[str]) -> None:
    put(address, "two.zip", b"old")
    folder = resolve_root(address, "toy", WANTED[1:])
    later = data_root.find_distant(address, WANTED[1:])[0]
    assert later is not None
    assert later.changed is not None
    os.utime(folder / "two.zip", (later.changed - 60, later.changed - 60))  # the same size
    resolve_root(address, "toy", WANTED[1:])
    put(address, "two.zip", b"newer")
    assert (resolve_root(address, "toy", WANTED[1:]) / "two.zip").read_bytes() == b"newer"
    assert downloads == ["two.zip"] * 3


def test_two_that_want_the_same_file_download_it_once(address: str, downloads: list[str]) -> None:
    put(address, "two.zip", b"x" * 5_000_000)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: resolve_root(address, "toy", WANTED[1:]), range(4)))
    assert downloads == ["two.zip"]
    assert (folders[0] / "two.zip").stat().st_size == 5_000_000


def test_what_a_broken_connection_leaves_is_not_taken_for_the_file(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(address, "two.zip", b"x" * 3_000_000)
    read, pieces = data_root._read, iter(range(10))

    def cut_off(source: Any, address: str, key: str) -> bytes:
        return read(source, address, key) if next(pieces) == 0 else b""

    with monkeypatch.context() as patch:
        patch.setattr(data_root, "_read", cut_off)
        with pytest.raises(ValueError, match=r"must have 3000000 bytes.*got 1048576; try again"):
            resolve_root(address, "toy", WANTED[1:])
    assert not (copies_of(address) / "two.zip").exists()
    folder = resolve_root(address, "toy", WANTED[1:])
    assert (folder / "two.zip").stat().st_size == 3_000_000


KILLED = """
import os, signal, sys
import fsspec
from dmeta.tasks import data_root

fsspec.filesystem("memory").pipe_file("/b/two.zip", b"x" * 3_000_000)
read = data_root._read
def killed(source, address, key):
    piece = read(source, address, key)
    killed.left -= 1
    if killed.left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece
killed.left = int(sys.argv[1])
data_root._read = killed
print((data_root.resolve_root("memory://b", "toy", [["two.zip"]]) / "two.zip").stat().st_size)
"""


def test_one_that_is_killed_half_way_is_followed_by_one_that_fetches_it_whole() -> None:
    def fetch(left: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", KILLED, str(left)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    assert fetch(2).returncode == -signal.SIGKILL
    folder = copies_of("memory://b")
    assert {path.name for path in folder.iterdir()} == {".two.zip.part", ".two.zip.lock"}
    assert fetch(100).stdout == "3000000\n"
    assert {path.name for path in folder.iterdir()} == {"two.zip", ".two.zip.lock"}


def test_what_is_not_there_is_told_by_its_address(address: str) -> None:
    put(address, "one.zip", b"")
    with pytest.raises(MissingDataError) as told:
        resolve_root(address, "toy", WANTED)
    assert f"toy must be complete to be read, got no two.zip (looked in {address}/two.zip)" in str(
        told.value
    )
    with pytest.raises(MissingDataError, match=r"no \.\./two.zip"):
        resolve_root(address, "toy", [["../two.zip"]])


def test_a_storage_that_refuses_is_told_of(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    words = r"task.root .*must be an address that this machine can read.*Access Denied.*credentials"
    with monkeypatch.context() as patch:
        patch.setattr(type(fsspec.filesystem("memory")), "info", refuse)
        with pytest.raises(ValueError, match=words):
            resolve_root(address, "toy", WANTED)


def test_a_cache_that_can_not_be_written_is_told_of(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(address, "two.zip", b"")
    (tmp_path / "file").touch()
    monkeypatch.setenv("DMETA_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"DMETA_CACHE .*must be a folder.*set DMETA_CACHE"):
        resolve_root(address, "toy", WANTED[1:])


def test_a_folder_is_read_where_it_is(tmp_path: Path) -> None:
    assert resolve_root(f"file://{tmp_path}", "toy", WANTED) == tmp_path
    assert resolve_root(str(tmp_path), "toy", WANTED) == tmp_path


def test_the_default_root_is_the_environments_or_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMETA_DATA", "/somewhere")
    assert default_root() == "/somewhere"
    monkeypatch.setenv("DMETA_DATA", "")
    assert default_root() == "data"


def test_omniglot_is_the_same_from_an_address(
    omniglot_tree: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omniglot, "OMNIGLOT_PARTS", TINY_PARTS)
    for part in TINY_PARTS:
        archive = zip_tree(omniglot_tree / "omniglot" / part, tmp_path / f"{part}.zip")
        put(address, f"omniglot/{part}.zip", archive.read_bytes())
    monkeypatch.setenv("DMETA_DATA", address)
    there, here = load_omniglot(), load_omniglot(root=str(omniglot_tree), cache=False)
    assert np.array_equal(there.images, here.images)
    assert there.class_names == here.class_names
    statuses = {status.name: status for status in inventory(address)}
    assert statuses["omniglot"].complete
    assert "images_background.zip (0.0 MB)" in statuses["omniglot"].where[0]
    assert statuses["miniimagenet"].missing == ("mini-imagenet/mini-imagenet.zip",)
    assert statuses["miniimagenet"].where == (f"{address}/mini-imagenet/mini-imagenet.zip",)
    assert statuses["features"].missing == ("features/*.npz",)


def test_miniimagenet_is_the_same_from_an_address(
    mini_tree: Path, tmp_path: Path, address: str
) -> None:
    archive = zip_tree(mini_tree / "mini-imagenet", tmp_path / "mini-imagenet.zip")
    put(address, "mini-imagenet/mini-imagenet.zip", archive.read_bytes())
    there = load_miniimagenet(root=address)
    here = load_miniimagenet(root=str(mini_tree), cache=False)
    assert np.array_equal(there.images, here.images)


def test_features_are_found_by_their_address_or_by_name_at_the_root(
    tmp_path: Path, address: str
) -> None:
    file = write_tiny_features(tmp_path / "x.npz")
    put(address, "features/x.npz", file.read_bytes())
    here = load_features(file=str(file))
    for options in (
        {"file": f"{address}/features/x.npz"},
        {"file": "x.npz", "root": address},
    ):
        assert np.array_equal(load_features(**options).features, here.features)
    features = next(s for s in inventory(address) if s.name == "features")
    assert features.complete
    with pytest.raises(MissingDataError, match=r"no y.npz.*correct task.file"):
        load_features(file=f"{address}/features/y.npz")
