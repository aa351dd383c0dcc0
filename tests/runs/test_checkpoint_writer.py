"""Checkpoints are written beside the training, in order; a failure costs one, not the run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from dmeta.runs.checkpoint import open_checkpoints, read_checkpoint, steps_in
from dmeta.runs.checkpoint_writer import CheckpointWriter
from dmeta.runs.storage import DiskStorage
from dmeta.runtime.local import LocalRuntime
from dmeta.runtime.messages import ServerState
from dmeta.runtime.protocol import Runtime
from dmeta.training.results import Result
from dmeta.training.run import run_session
from dmeta.training.session import Session
from dmeta.training.setup import Run, prepare
from tests.conftest import tiny_config

SECONDS = 30


def state(step: int) -> ServerState:
    return ServerState(step, {"meta_params/w": np.full(2, step, np.float32)})


def local(run: Run) -> Runtime:
    return LocalRuntime(run.work, run.outer, "cpu", 1)


def finish(run_dir: Path, **changes: object) -> Result:
    return run_session(Session(prepare(tiny_config(run_dir, **changes)), run_dir, local))


def test_beginning_does_not_wait_and_leaving_does(tmp_path: Path) -> None:
    storage, may_go_on = open_checkpoints(tmp_path, None), threading.Event()

    def slow() -> ServerState:
        assert may_go_on.wait(SECONDS)
        return state(1)

    with CheckpointWriter(storage, keep=9) as writer:
        writer.begin(slow, {"step": 1}, [])
        writer.begin(lambda: state(2), {"step": 2}, [])
        assert writer.busy
        assert steps_in(storage) == []
        may_go_on.set()
    assert steps_in(storage) == [1, 2]
    assert not writer.busy


def test_what_cannot_be_written_is_told_of_and_the_next_one_is_tried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_checkpoints(tmp_path, None)

    def lost() -> ServerState:
        raise RuntimeError("the server was lost")

    with caplog.at_level(logging.WARNING), CheckpointWriter(storage, keep=9) as writer:
        writer.begin(lost, {"step": 1}, [])
        writer.begin(lambda: state(2), {"step": 2}, [])
    assert steps_in(storage) == [2]
    assert "checkpoint of step 1 was not written (RuntimeError: the server was lost)" in caplog.text


def test_pruning_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    storage = open_checkpoints(tmp_path, None)
    with CheckpointWriter(storage, keep=2) as writer:
        for step in (1, 2, 3, 4):
            writer.begin(lambda step=step: state(step), {}, [1])  # type: ignore[misc]
    assert steps_in(storage) == [1, 3, 4]


class FullDisk:
    """`DiskStorage.write` that fails for some of its calls."""

    def __init__(self, fails: Mapping[int, bool] | bool) -> None:
        self.fails, self.calls = fails, 0
        self.write = DiskStorage.write

    def __call__(self, storage: DiskStorage, name: str, files: Mapping[str, bytes]) -> None:
        self.calls += 1
        if self.fails is True or (self.fails and self.calls in self.fails):
            raise OSError(28, "No space left on device", storage.locate(name))
        self.write(storage, name, files)


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = finish(tmp_path / "whole", checkpoint__every=1)
    full = FullDisk({1: True, 2: True})
    monkeypatch.setattr(DiskStorage, "write", lambda *arguments: full(*arguments))
    with caplog.at_level(logging.WARNING):
        result = finish(tmp_path / "run", checkpoint__every=1)
    assert result.meta_params_sha256 == whole.meta_params_sha256
    assert "No space left on device" in caplog.text
    assert steps_in(open_checkpoints(tmp_path / "run", None))[-1] == 6


def test_a_best_checkpoint_that_was_not_written_is_told_of_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = FullDisk({1: True})
    monkeypatch.setattr(DiskStorage, "write", lambda *arguments: full(*arguments))
    every = {"checkpoint__every": 0, "eval__every": 1, "eval__checkpoint": "ensemble"}
    with caplog.at_level(logging.WARNING):
        result = finish(tmp_path, steps=3, eval__ensemble_size=3, **every)
    assert result.test.num_models == 2
    assert "1 of the 3 best checkpoints could not be written" in caplog.text


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_with_a_reason_and_what_is_there_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path, steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(DiskStorage, "write", lambda *arguments: FullDisk(True)(*arguments))
        with pytest.raises(OSError, match=r"No space left on device: .*step-00000006"):
            finish(tmp_path, resume=True)
    storage = open_checkpoints(tmp_path, None)
    assert read_checkpoint(storage, steps_in(storage)[-1]).step == 2
    whole = finish(tmp_path / "whole")
    assert finish(tmp_path, resume=True).meta_params_sha256 == whole.meta_params_sha256


def test_no_step_waits_for_a_slow_storage_and_what_was_due_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, may_go_on, write = [], threading.Event(), DiskStorage.write

    def slow(storage: DiskStorage, name: str, files: Mapping[str, bytes]) -> None:
        assert may_go_on.wait(SECONDS)
        written.append(name)
        write(storage, name, files)

    class AtStep5:
        def on_row(self, row: object) -> None:
            pass

        def on_phase(self, what: str) -> None:
            pass

        def on_step(self, step: int, report: object) -> None:
            if step == 5:
                may_go_on.set()

    monkeypatch.setattr(DiskStorage, "write", slow)
    run = prepare(tiny_config(tmp_path, checkpoint__every=1, eval__every=0))
    run_session(Session(run, tmp_path, local, [AtStep5()]))
    assert written[0] == "step-00000001"
    assert written[-1] == "step-00000006"
    assert not {"step-00000002", "step-00000003", "step-00000004"} & set(written)
