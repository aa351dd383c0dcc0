"""A run's folder and its copy at an address."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest

from dmeta.runs.checkpoint import open_checkpoints
from dmeta.runs.remote_mirror import DistantFolder, Mirror, MirroredStorage


@pytest.fixture
def there() -> DistantFolder:
    return DistantFolder(f"memory://{uuid.uuid4().hex}/runs/x/")


@pytest.fixture
def written(there: DistantFolder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are written there from now on."""
    names: list[str] = []
    write = there.write

    def noted(name: str, content: bytes) -> None:
        names.append(name)
        write(name, content)

    monkeypatch.setattr(there, "write", noted)
    return names


def test_a_file_is_there_once_it_is_written_and_no_more_once_removed(there: DistantFolder) -> None:
    assert there.read("a/b.json") is None
    assert not there.has("a/b.json")
    there.write("a/b.json", b"1")
    there.write("a/b.json", b"2")
    assert there.read("a/b.json") == b"2"
    assert there.has("a/b.json")
    there.remove("a/b.json")
    assert there.read("a/b.json") is None


def test_files_are_found_by_their_names_and_folders_removed(there: DistantFolder) -> None:
    assert there.find("*/result.json") == []
    for name in ("b/result.json", "a/result.json", "a/c/result.json", "a/other", "result.json"):
        there.write(name, b"1")
    assert there.find("*/result.json") == ["a/result.json", "b/result.json"]
    odd = DistantFolder(f"{there.address}lr[0.1]*")
    odd.write("a/result.json", b"1")
    assert odd.find("*/result.json") == ["a/result.json"]
    there.remove_folder("a")
    there.remove_folder("none")
    assert there.find("*/result.json") == ["b/result.json"]
    assert not there.has("a/c/result.json")


def test_what_is_new_or_changed_is_copied_and_nothing_else(
    there: DistantFolder, written: list[str], tmp_path: Path
) -> None:
    mirror = Mirror(tmp_path, there)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"a")
    (tmp_path / "rows.jsonl").write_bytes(b"1\n")
    (tmp_path / ".results.json.17").write_bytes(b"half")
    mirror.push()
    assert written == ["figures/a.png", "rows.jsonl"]
    mirror.push()
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(b"2\n")
    mirror.push()
    assert written == ["figures/a.png", "rows.jsonl", "rows.jsonl"]
    assert there.read("rows.jsonl") == b"1\n2\n"


def test_what_is_fetched_is_as_it_is_there_and_not_copied_back(
    there: DistantFolder, written: list[str], tmp_path: Path
) -> None:
    there.write("joint/config.json", b"{}")
    written.clear()
    mirror = Mirror(tmp_path, there)
    mirror.fetch(["joint/config.json", "config.json"])
    mirror.push()
    assert [path.name for path in tmp_path.rglob("*.json")] == ["config.json"]
    assert (tmp_path / "joint" / "config.json").read_bytes() == b"{}"
    assert written == []


def test_the_rest_is_there_before_the_checkpoint(there: DistantFolder, tmp_path: Path) -> None:
    """A resume finds all rows of metrics up to the checkpoint's step."""
    (tmp_path / "rows.jsonl").write_bytes(b"1\n")
    order: list[str] = []

    class Noting:
        def write(self, name: str, files: Any) -> None:
            order.append(f"{name}, rows: {there.read('rows.jsonl')!r}")

    storage: Any = Noting()
    MirroredStorage(storage, Mirror(tmp_path, there)).write("step-2", {})
    assert order == ["step-2, rows: b'1\\n'"]


def test_the_checkpoints_beside_it_are_those_of_the_storage(
    there: DistantFolder, tmp_path: Path
) -> None:
    plain = open_checkpoints(tmp_path, None)
    storage = MirroredStorage(plain, Mirror(tmp_path / "run", there))
    files = {"state.safetensors": b"s", "checkpoint.json": b"{}"}
    storage.write("step-00000002", files)
    assert storage.names() == plain.names() == ["step-00000002"]
    assert storage.read("step-00000002", "state.safetensors") == b"s"
    assert storage.locate("step-00000002") == plain.locate("step-00000002")
    storage.remove_unfinished()
    storage.remove("step-00000002")
    assert plain.names() == []


def test_a_storage_that_refuses_is_told_of(
    there: DistantFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    memory = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(memory, "pipe_file", refuse)
    monkeypatch.setattr(memory, "cat_file", refuse)
    with pytest.raises(OSError, match=r"cannot write a.json to memory://.*Access Denied"):
        there.write("a.json", b"")
    with pytest.raises(ValueError, match=r"run_dir must be an address that this machine can read"):
        there.read("a.json")
