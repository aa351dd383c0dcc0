"""Runs whose folder is at an address: the same as in a folder, and nothing of them left here."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import dmeta
from dmeta.runs.heartbeat import MARK
from dmeta.runs.remote_mirror import DistantFolder
from dmeta.runtime.local import LocalRuntime
from dmeta.runtime.messages import StepReport
from dmeta.tasks.features import load_features
from tests.cli.refusal import nothing_starts, refusal  # noqa: F401
from tests.conftest import TINY


@pytest.fixture
def address() -> str:
    return f"memory://{uuid.uuid4().hex}/runs/x"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def content_at(address: str) -> dict[str, bytes]:
    """Name -> content of all that is there."""
    files, root = fsspec.core.url_to_fs(address)
    if not files.exists(root):
        return {}
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def put(address: str, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        DistantFolder(address).write(name, content)


def rows(content: bytes) -> list[dict[str, Any]]:
    """Of metrics, without what is of the clock."""
    clock = ("seconds", "tasks_per_second")
    parsed = [json.loads(line) for line in content.splitlines()]
    return [{key: value for key, value in row.items() if key not in clock} for row in parsed]


def kinds(names: Iterable[str]) -> set[str]:
    """What files there are, without what is of the clock.

    TensorBoard's have the time in their names, and a checkpoint that comes due while the one before
    is being written is put off, so which steps have one is the clock's too.
    """
    return {re.sub(r"step-[0-9]{8}", "step", name) for name in names if "tfevents" not in name}


@pytest.mark.slow
def test_a_run_at_an_address_is_the_run_in_a_folder(
    address: str, cache: Path, tmp_path: Path
) -> None:
    changes = {"joint_baseline": True}
    here = dmeta.train(TINY | changes | {"run_dir": str(tmp_path / "run")})
    there = dmeta.train(TINY | changes | {"run_dir": address})
    assert there.run_dir == address
    assert there.meta_params_sha256 == here.meta_params_sha256
    assert (there.test, there.joint_baseline) == (here.test, here.joint_baseline)
    found = content_at(address)
    folder = Path(here.run_dir)
    wanted = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    joint = ("joint_baseline/checkpoints/", "checkpoints/joint_baseline/")
    assert kinds(found) == {name.replace(*joint) for name in kinds(wanted)}
    assert "checkpoints/step-00000006/state.safetensors" in found
    assert rows(found["metrics.jsonl"]) == rows((folder / "metrics.jsonl").read_bytes())
    settings = json.loads(found["config.json"])["settings"]
    assert (settings["run_dir"], settings["checkpoint"]["location"]) == (address, None)
    assert list((cache / "runs").iterdir()) == []


def lines_of(found: Mapping[str, bytes]) -> list[tuple[str, int]]:
    """What there are lines of metrics of."""
    return [(row["event"], row["step"]) for row in rows(found["metrics.jsonl"])]


class Killed:
    """An observer that keeps what is at an address after each step: what a kill would leave."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.left: list[dict[str, bytes]] = []

    def on_row(self, row: object) -> None:
        pass

    def on_phase(self, what: str) -> None:
        pass

    def on_step(self, step: int, report: object) -> None:
        self.left.append(content_at(self.address))


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_what_is_there_to_the_same_bits(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmeta.runs.heartbeat.SILENCE_S", 0.0)
    killed = Killed(address)
    whole = dmeta.train(TINY | {"run_dir": address}, observers=[killed])
    lines = lines_of(content_at(address))
    assert len(killed.left) == 6
    for number, left in enumerate(killed.left[::2]):
        assert MARK in left
        assert "config.json" in left
        other = f"{address}-{number}"
        put(other, left)
        again = dmeta.train(TINY | {"run_dir": other, "resume": True})
        assert again.meta_params_sha256 == whole.meta_params_sha256
        assert lines_of(content_at(other)) == lines
        assert MARK not in content_at(other)


def test_a_run_that_fails_leaves_what_it_wrote(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = LocalRuntime.step

    def step(runtime: LocalRuntime, number: int, *blocks: Any) -> StepReport:
        if number == 5:
            raise RuntimeError("the machine is on fire")
        return take_step(runtime, number, *blocks)

    monkeypatch.setattr(LocalRuntime, "step", step)
    with pytest.raises(RuntimeError, match="on fire"):
        dmeta.train(TINY | {"run_dir": address})
    assert [row["step"] for row in rows(content_at(address)["metrics.jsonl"])] == [2, 3, 4]


@pytest.mark.slow
def test_it_is_evaluated_loaded_replayed_and_moved(address: str, cache: Path) -> None:
    result = dmeta.train(TINY | {"run_dir": address})
    moved = f"memory://{uuid.uuid4().hex}/elsewhere"
    put(moved, content_at(address))
    assert dmeta.evaluate(moved, num_tasks=6) == result.test
    assert dmeta.evaluate(moved, num_tasks=6, checkpoint="best").num_tasks == 6
    assert dmeta.load(moved).step == 6
    dmeta.replay(moved, 3, 1)
    assert {"replay/step-3/block-1.json", "replay/step-3/block-1.npz"} <= content_at(moved).keys()
    assert list((cache / "runs").iterdir()) == []


@pytest.mark.slow
def test_a_copy_of_it_in_a_folder_is_a_run(address: str, tmp_path: Path) -> None:
    result = dmeta.train(TINY | {"run_dir": address})
    for name, content in content_at(address).items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    files, root = fsspec.core.url_to_fs(address)
    files.rm(root, recursive=True)
    assert dmeta.evaluate(tmp_path / "copy", num_tasks=6) == result.test


@pytest.mark.slow
def test_features_are_written_beside_it_once(address: str, tmp_path: Path) -> None:
    settings = TINY | {"task": "glyphs", "algorithm": "protonet", "eval.every": 0, "steps": 1}
    dmeta.train(settings | {"run_dir": address})
    assert dmeta.embed(address) == f"{address}/features.npz"
    again = dmeta.embed(address, tmp_path / "x.npz")
    assert again == tmp_path / "x.npz"
    sources = [load_features(file=str(file)) for file in (again, f"{address}/features.npz")]
    assert np.array_equal(sources[0].features, sources[1].features)
    with pytest.raises(ValueError, match=r"out must be new, got memory://.*features.npz"):
        dmeta.embed(address)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train run_dir=s4://bucket/x", "run_dir must be a path, or an address that fsspec"),
        ("evaluate run_dir=memory://none/x", "run_dir must hold a run, got memory://none/x"),
        ("train run_dir=memory://none/x resume=true", "got none in memory://none/x"),
        ("tune run_dir=s4://bucket/x outer.lr=0.1,0.2", "run_dir must be a path, or an address"),
        ("bench gradients bench.out=memory://x", "bench.out must be a folder that this machine"),
    ],
)
def test_what_can_not_be_is_refused(
    line: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMETA_CACHE", "/tmp")
    assert words in refusal(line, capsys)
    assert content_at("memory://none/x") == {}


@pytest.mark.slow
def test_a_run_that_is_there_is_not_overwritten(address: str) -> None:
    dmeta.train(TINY | {"run_dir": address})
    before = content_at(address)
    with pytest.raises(ValueError, match=rf"run_dir must be new, got {address} with a run in it"):
        dmeta.train(TINY | {"run_dir": address})
    assert content_at(address) == before
    with pytest.raises(ValueError, match=rf"run_dir must belong .* got {address} of another"):
        dmeta.train(TINY | {"run_dir": address, "resume": True, "seed": 1})
