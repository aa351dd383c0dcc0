"""Checkpoints: whole or refused, whatever happened to their files."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmeta.runs.checkpoint import (
    MANIFEST,
    STATE,
    Checkpoint,
    CheckpointError,
    last_checkpoint,
    open_checkpoints,
    prune_checkpoints,
    read_checkpoint,
    steps_in,
    write_checkpoint,
)
from dmeta.runs.storage import Storage
from dmeta.runtime.messages import ServerState

ARRAYS: dict[str, Any] = {
    "meta_params/w": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "meta_params/b": np.array([math.pi, -0.0], np.float32),
    "optimizer/step": np.array(3.0, np.float32),
    "optimizer/exp_avg": np.linspace(-1, 1, 8, dtype=np.float32),
}
PROGRESS = {"best_step": 2, "best": 0.75, "rejected": {"in_a_row": 0}, "digest": "abc"}
STEP = 12


def at(directory: Path) -> Storage:
    return open_checkpoints(Path("unused"), str(directory))


def write(
    directory: Path, step: int = STEP, arrays: Any = ARRAYS, progress: Any = PROGRESS
) -> Path:
    storage = at(directory)
    write_checkpoint(storage, ServerState(step, arrays), progress)
    return directory / f"step-{step:08d}"


def read(folder: Path) -> Checkpoint:
    return read_checkpoint(at(folder.parent), int(folder.name.removeprefix("step-")))


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield write(Path(directory))


def same(loaded: Checkpoint) -> bool:
    """Whether it is, to the bit, what was written."""
    return (
        loaded.step == STEP
        and dict(loaded.progress) == PROGRESS
        and loaded.state.arrays.keys() == ARRAYS.keys()
        and all(
            (loaded.state.arrays[name].shape, loaded.state.arrays[name].tobytes())
            == (array.shape, array.tobytes())
            for name, array in ARRAYS.items()
        )
    )


def with_file(whole: Path, name: str, content: bytes | None) -> Path:
    """A copy of the checkpoint with other content (None: without) in one file."""
    copy = whole.parent / "copy" / whole.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    return copy


def test_what_was_written_is_read(whole: Path) -> None:
    loaded = read(whole)
    assert same(loaded)
    assert loaded.where == str(whole)
    assert loaded.meta_params().keys() == {"w", "b"}
    assert whole.name == "step-00000012"
    assert sorted(p.name for p in whole.iterdir()) == sorted([STATE, MANIFEST])


@pytest.mark.parametrize("name", [STATE, MANIFEST])
def test_a_file_truncated_anywhere_is_refused(whole: Path, name: str) -> None:
    content = (whole / name).read_bytes()
    copy = with_file(whole, name, content)
    for length in range(len(content)):
        (copy / name).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=name):
            read(copy)


@pytest.mark.slow
def test_any_flipped_bit_of_the_state_is_refused(whole: Path) -> None:
    content = (whole / STATE).read_bytes()
    copy = with_file(whole, STATE, content)
    for flipped in every_flip(content):
        (copy / STATE).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"must have \d+ bytes with SHA-256"):
            read(copy)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(extra=st.binary(min_size=1, max_size=64))
def test_an_appended_state_is_refused(whole: Path, extra: bytes) -> None:
    with pytest.raises(CheckpointError, match="bytes with SHA-256"):
        read(with_file(whole, STATE, (whole / STATE).read_bytes() + extra))


def every_flip(content: bytes) -> Iterator[bytes]:
    for place in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            yield bytes(flipped)


def test_no_flipped_bit_of_the_manifest_gives_other_tensors_or_another_exception(
    whole: Path,
) -> None:
    """Every bit of it: refused, or read with the tensors that were written."""
    content = (whole / MANIFEST).read_bytes()
    copy = with_file(whole, MANIFEST, content)
    refused = 0
    for flipped in every_flip(content):
        (copy / MANIFEST).write_bytes(flipped)
        try:
            loaded = read(copy)
        except CheckpointError:
            refused += 1
            continue
        assert all(np.array_equal(loaded.state.arrays[n], a) for n, a in ARRAYS.items())
    assert refused > len(content)


def test_no_flipped_bit_of_the_manifest_gives_another_step_or_progress(whole: Path) -> None:
    content = (whole / MANIFEST).read_bytes()
    copy = with_file(whole, MANIFEST, content)
    wrong = 0
    for flipped in every_flip(content):
        (copy / MANIFEST).write_bytes(flipped)
        try:
            wrong += not same(read(copy))
        except CheckpointError:
            continue
    assert wrong == 0


@pytest.mark.parametrize("name", [STATE, MANIFEST])
def test_a_missing_file_is_refused_by_its_name(whole: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"got .*{name}"):
        read(with_file(whole, name, None))


def test_a_missing_folder_or_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must have state"):
        read(tmp_path / "step-00000001")
    (tmp_path / "step-00000002").write_bytes(b"")
    with pytest.raises(CheckpointError):
        read(tmp_path / "step-00000002")


def altered(whole: Path, change: Any) -> Path:
    manifest = json.loads((whole / MANIFEST).read_bytes())
    manifest = change(manifest) or manifest
    return with_file(whole, MANIFEST, json.dumps(manifest).encode())


ALTERED = {
    "no step": lambda m: m.pop("step") and None,
    "no progress": lambda m: m.pop("progress") and None,
    "no files": lambda m: m.pop("files") and None,
    "no state": lambda m: m["files"].pop(STATE) and None,
    "a step in words": lambda m: m.update(step="twelve"),
    "no number for a step": lambda m: m.update(step=None),
    "a step that is not a number": lambda m: m.update(step=math.nan),
    "progress that is a number": lambda m: m.update(progress=3),
    "files in a list": lambda m: m.update(files=[STATE]),
    "another size": lambda m: m["files"][STATE].update(size_bytes=1),
    "another digest": lambda m: m["files"][STATE].update(sha256="0" * 64),
    "no digest": lambda m: m["files"][STATE].pop("sha256") and None,
    "a list": lambda m: [m],
    "a text": lambda m: "manifest",
    "a number": lambda m: 3,
}


@pytest.mark.parametrize("change", ALTERED)
def test_an_altered_manifest_is_refused(whole: Path, change: str) -> None:
    with pytest.raises(CheckpointError, match="altered or"):
        read(altered(whole, ALTERED[change]))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.update(step=math.inf), id="an infinite step: OverflowError"),
        pytest.param(lambda m: m.update(format=2), id="another format"),
        pytest.param(lambda m: m.pop("format") and None, id="no format"),
        pytest.param(lambda m: m.update(step=13), id="another step than its folder's name"),
        pytest.param(lambda m: m.update(progress=["ab"]), id="progress that is a list of pairs"),
    ],
)
def test_an_altered_manifest_is_refused_even_if_it_can_be_read(whole: Path, change: Any) -> None:
    with pytest.raises(CheckpointError):
        read(altered(whole, change))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_no_manifest(whole: Path, content: bytes) -> None:
    with pytest.raises(CheckpointError, match="must be a checkpoint's manifest"):
        read(with_file(whole, MANIFEST, content))


def test_the_state_of_another_checkpoint_is_refused(whole: Path, tmp_path: Path) -> None:
    # The sign of a zero is other.
    other = write(tmp_path, arrays=ARRAYS | {"meta_params/b": np.array([math.pi, 0.0], np.float32)})
    with pytest.raises(CheckpointError, match="bytes with SHA-256"):
        read(with_file(whole, STATE, (other / STATE).read_bytes()))


def test_a_step_saved_twice_has_the_newer_progress(tmp_path: Path) -> None:
    write(tmp_path, progress={"best": 0})
    assert same(read(write(tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000012"]


def test_what_cannot_be_written_leaves_no_checkpoint_and_the_old_one_whole(tmp_path: Path) -> None:
    old = write(tmp_path)
    for step in (STEP, STEP + 1):
        with pytest.raises(TypeError):
            write(tmp_path, step, progress={"not data": object()})
    assert steps_in(at(tmp_path)) == [STEP]
    assert same(read(old))
    write(tmp_path, STEP + 1)
    assert steps_in(at(tmp_path)) == [STEP, STEP + 1]


def test_views_and_transposed_arrays_are_written_by_value(tmp_path: Path) -> None:
    base = np.arange(6, dtype=np.float32)
    arrays = {"meta_params/w": base.reshape(2, 3).T, "meta_params/b": base[1:3]}
    loaded = read(write(tmp_path, arrays=arrays))
    assert loaded.meta_params()["w"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert loaded.meta_params()["b"].tolist() == [1, 2]


def saved(directory: Path, *steps: int) -> list[int]:
    for step in steps:
        write(directory, step, {"meta_params/w": np.zeros(1, np.float32)}, {})
    return steps_in(at(directory))


def test_listing_is_by_number_and_ignores_what_is_no_checkpoint(tmp_path: Path) -> None:
    for other in (
        ".step-00000005.123", "step-5", "step-00000005.tmp", "xstep-00000005", "step-0000000x",
    ):  # fmt: skip
        (tmp_path / other).mkdir()
    assert saved(tmp_path, 100_000_000, 20, 3) == [3, 20, 100_000_000]
    assert steps_in(at(tmp_path / "nothing here")) == []


def test_a_damaged_checkpoint_is_passed_over_and_told_of(tmp_path: Path) -> None:
    steps = saved(tmp_path, 1, 2, 3, 4)
    (tmp_path / "step-00000004" / STATE).write_bytes(b"")
    (tmp_path / "step-00000003" / MANIFEST).unlink()
    checkpoint, damages = last_checkpoint(at(tmp_path), steps)
    assert checkpoint.step == 2
    assert ["step-00000004" in damages[0], "step-00000003" in damages[1]] == [True, True]


def test_nothing_but_damaged_checkpoints_is_refused(tmp_path: Path) -> None:
    steps = saved(tmp_path, 1, 2)
    for step in steps:
        (tmp_path / f"step-{step:08d}" / STATE).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"one of the 2 .* must be whole, got none; .*00002"):
        last_checkpoint(at(tmp_path), steps)


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (1, [], [5]),
        (2, [], [4, 5]),
        (9, [], [1, 2, 3, 4, 5]),
        (2, [1], [1, 4, 5]),
        (2, [4], [4, 5]),
        (1, [7], [5]),
        (1, [3, 1], [1, 3, 5]),
    ],
)
def test_pruning_keeps_the_last_ones_and_the_best(
    keep: int, best: list[int], left: list[int], tmp_path: Path
) -> None:
    saved(tmp_path, 1, 2, 3, 4, 5)
    (tmp_path / "mine").mkdir()
    prune_checkpoints(at(tmp_path), keep, best)
    assert steps_in(at(tmp_path)) == left
    assert (tmp_path / "mine").is_dir()


def test_pruning_without_a_best_step_does_not_keep_step_zero(tmp_path: Path) -> None:
    saved(tmp_path, 0, 1, 2)
    prune_checkpoints(at(tmp_path), 1, [])
    assert steps_in(at(tmp_path)) == [2]
