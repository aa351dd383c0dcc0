"""Whatever has become of a run's files: the reader says so, or reads what was written."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dmeta.training.checkpoint import (
    MANIFEST,
    STATE,
    CheckpointError,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from dmeta.training.session import read_settings

STEP, PROGRESS = 7, {"best": [[7, 0.5]], "seconds": 1.25}
TENSORS = {
    "meta_params/w": torch.linspace(-1, 1, 6).view(2, 3),
    "optimizer/step": torch.tensor(3.0),
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)

few = settings(max_examples=80, deadline=None, derandomize=True)


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
        write_checkpoint(str(Path(name) / "whole"), STEP, TENSORS, PROGRESS)
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
        got = read_checkpoint(list_checkpoints(directory)[-1])
    except CheckpointError as error:
        return str(error)
    assert (got.step, dict(got.progress)) == (STEP, PROGRESS)
    assert got.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(got.tensors[name], tensor) for name, tensor in TENSORS.items())
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
    found = [int(path.name.removeprefix("step-")) for path in list_checkpoints(directory)]
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
