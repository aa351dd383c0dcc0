"""Whatever has become of a run's files: the reader says so, or reads what was written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dmeta.runs.checkpoint import (
    MANIFEST,
    STATE,
    CheckpointError,
    _digest,
    open_checkpoints,
    read_checkpoint,
    steps_in,
    write_checkpoint,
)
from dmeta.runs.progress import progress_of
from dmeta.runs.storage import Storage
from dmeta.runtime.messages import ServerState
from dmeta.training.resume import read_settings

STEP, PROGRESS = 7, {"best": [[7, 0.5]], "seconds": 1.25}
ARRAYS: dict[str, Any] = {
    "meta_params/w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "optimizer/step": np.array(3.0, np.float32),
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)

few = settings(max_examples=80, deadline=None, derandomize=True)


def at(directory: Path) -> Storage:
    return open_checkpoints(Path("unused"), str(directory))


@st.composite
def edits(draw: st.DrawFn, most: int = 3) -> list[tuple[float, float, bytes]]:
    """Where a file is cut out and what is put there, as shares of its length."""
    share = st.floats(0, 1)
    each = st.tuples(share, share | st.just(0.0), st.binary(max_size=12))
    return draw(st.lists(each, min_size=1, max_size=most))


def edited(content: bytes, changes: list[tuple[float, float, bytes]]) -> bytes:
    for place, length, new in changes:
        start = int(place * len(content))
        content = content[:start] + new + content[start + int(length * 20) :]
    return content


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the files lie that the tests damage; hypothesis runs one function many times."""
    with tempfile.TemporaryDirectory() as name:
        write_checkpoint(at(Path(name) / "whole"), ServerState(STEP, ARRAYS), PROGRESS)
        yield Path(name)


def damaged(folder: Path, **files: bytes) -> Path:
    """The folder of checkpoints with one, of which some files have other content."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "whole", copy)
    for name, content in files.items():
        (copy / f"step-{STEP:08d}" / {"state": STATE, "manifest": MANIFEST}[name]).write_bytes(
            content
        )
    return copy


def refusal(directory: Path) -> str | None:
    """The message with which the reader refuses the checkpoint; None: it is what was written."""
    try:
        got = read_checkpoint(at(directory), STEP)
    except CheckpointError as error:
        return str(error)
    assert (got.step, dict(got.progress)) == (STEP, PROGRESS)
    assert got.state.arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(got.state.arrays[name], array) for name, array in ARRAYS.items())
    return None


def is_refused(directory: Path) -> bool:
    told = refusal(directory)
    assert told is None or str(directory) in told, "the message names the file"
    return told is not None


def file_of(folder: Path, name: str) -> bytes:
    return (folder / "whole" / f"step-{STEP:08d}" / name).read_bytes()


def test_a_whole_checkpoint_is_read(folder: Path) -> None:
    assert not is_refused(damaged(folder))


@few
@given(changes=edits())
def test_a_state_that_was_edited_is_refused(
    folder: Path, changes: list[tuple[float, float, bytes]]
) -> None:
    content = edited(file_of(folder, STATE), changes)
    assert is_refused(damaged(folder, state=content)) or content == file_of(folder, STATE)


@few
@given(changes=edits())
def test_a_manifest_that_was_edited_is_refused_or_says_the_same(
    folder: Path, changes: list[tuple[float, float, bytes]]
) -> None:
    is_refused(damaged(folder, manifest=edited(file_of(folder, MANIFEST), changes)))


@pytest.mark.slow
@few
@given(state=st.binary(max_size=64), manifest=st.binary(max_size=64))
@example(state=b"", manifest=b"")
@example(state=b"", manifest=b"\xff\xfe{}")
def test_arbitrary_files_are_no_checkpoint(folder: Path, state: bytes, manifest: bytes) -> None:
    assert is_refused(damaged(folder, manifest=manifest))
    assert is_refused(damaged(folder, state=state))
    assert is_refused(damaged(folder, state=state, manifest=manifest))


@few
@given(content=JSON)
def test_arbitrary_json_is_no_manifest(folder: Path, content: Any) -> None:
    assert is_refused(damaged(folder, manifest=json.dumps(content).encode()))


@few
@given(key=st.sampled_from(["format", "step", "progress", "files", "sha256", "more"]), value=JSON)
def test_a_manifest_with_another_value_is_refused(folder: Path, key: str, value: Any) -> None:
    manifest = json.loads(file_of(folder, MANIFEST))
    if json.dumps(manifest.get(key, ...), default=str) != json.dumps(value):
        content = json.dumps(manifest | {key: value}).encode()
        assert is_refused(damaged(folder, manifest=content))


@few
@given(names=st.sets(st.text("step-.0123456789x", min_size=1, max_size=16)))
def test_only_folders_named_as_checkpoints_are_listed(folder: Path, names: set[str]) -> None:
    directory = folder / "names"
    shutil.rmtree(directory, ignore_errors=True)
    for step, name in enumerate(sorted(names - {".", ".."}), 1):
        (directory / name).mkdir(parents=True)
        (directory / f"step-{10**step:08d}").mkdir(exist_ok=True)
    found = steps_in(at(directory))
    assert found == sorted(found)
    assert len(found) >= len(names - {".", ".."})


WHOLE = {"settings": {"seed": 0, "steps": 6}, "fingerprint": "abc", "shapes": {"kind": "x"}}


def settings_of(folder: Path, content: bytes) -> dict[str, Any] | None:
    """What is read of a run's settings; None: they are refused, by the name of the file."""
    (folder / "config.json").write_bytes(content)
    with contextlib.suppress(CheckpointError):
        return read_settings(folder)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_settings(folder)
    return None


@few
@given(changes=edits())
def test_settings_that_were_edited_are_refused_or_have_all_their_parts(
    folder: Path, changes: list[tuple[float, float, bytes]]
) -> None:
    got = settings_of(folder, edited(json.dumps(WHOLE).encode(), changes))
    assert got is None or got.keys() >= WHOLE.keys()


@few
@given(content=st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_files_are_no_settings(folder: Path, content: bytes) -> None:
    assert settings_of(folder, content) is None
    assert settings_of(folder, json.dumps(WHOLE).encode()) == WHOLE


@pytest.mark.parametrize(
    "change",
    [
        {"step": -7}, {"step": 7.0}, {"step": "7"}, {"step": float("inf")}, {"progress": ["ab"]},
        {"files": {STATE: {"size_bytes": float("inf"), "sha256": ""}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_with_its_right_digest_is_refused_for_what_it_says(
    folder: Path, change: dict[str, Any]
) -> None:
    manifest = json.loads(file_of(folder, MANIFEST)) | change
    del manifest["sha256"]
    manifest["sha256"] = _digest(manifest)
    assert is_refused(damaged(folder, manifest=json.dumps(manifest).encode()))


def test_a_state_with_its_right_digest_is_refused_if_it_is_none(folder: Path) -> None:
    for state in (b"", b"garbage"):
        manifest = json.loads(file_of(folder, MANIFEST))
        sha256 = hashlib.sha256(state).hexdigest()
        manifest["files"][STATE] = {"size_bytes": len(state), "sha256": sha256}
        del manifest["sha256"]
        manifest["sha256"] = _digest(manifest)
        content = json.dumps(manifest).encode()
        assert is_refused(damaged(folder, state=state, manifest=content))


def test_brackets_without_an_end_are_refused(folder: Path) -> None:
    assert is_refused(damaged(folder, manifest=b"[" * 100_000))
    assert settings_of(folder, b"[" * 100_000) is None


def test_progress_of_something_else_is_refused(folder: Path) -> None:
    checkpoint = read_checkpoint(at(folder / "whole"), STEP)
    with pytest.raises(CheckpointError, match="must hold the progress of a run"):
        progress_of(checkpoint)
