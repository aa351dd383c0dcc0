"""Told to stop, a run keeps the step it is at; told twice, it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dmeta.runs.checkpoint import open_checkpoints, steps_in
from dmeta.runs.lock import only_one_in
from dmeta.runs.metrics import Row
from dmeta.runtime.local import LocalRuntime
from dmeta.runtime.messages import StepReport
from dmeta.runtime.protocol import Runtime
from dmeta.training.interrupts import Stopped, stop_on_signals
from dmeta.training.run import run_session
from dmeta.training.session import Session
from dmeta.training.setup import Run, prepare
from tests.conftest import tiny_config


class SignalAt:
    """Sends this process a signal while a step is being told of."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_row(self, row: Row) -> None:
        """Nothing."""

    def on_phase(self, what: str) -> None:
        """Nothing."""

    def on_step(self, step: int, report: StepReport) -> None:
        if step == self.step:
            os.kill(os.getpid(), self.number)


def local(run: Run) -> Runtime:
    return LocalRuntime(run.work, run.outer, "cpu", 1)


def kept_in(run_dir: Path) -> list[int]:
    return steps_in(open_checkpoints(run_dir, None))


def finish(run_dir: Path, *observers: SignalAt, **changes: object) -> str:
    run = prepare(tiny_config(run_dir, **changes))
    return run_session(Session(run, run_dir, local, observers, stop_on_signals)).meta_params_sha256


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_which_is_kept(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    whole, broken = finish(tmp_path / "whole"), tmp_path / "broken"
    with pytest.raises(Stopped) as stopped:
        finish(broken, SignalAt(3, number), checkpoint__every=0, eval__every=0)
    assert (stopped.value.step, stopped.value.signal_number) == (3, number)
    assert "finishing the step" in capfd.readouterr().err
    assert kept_in(broken) == [3]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert finish(broken, resume=True) == whole


def test_a_signal_at_the_last_step_changes_nothing(tmp_path: Path) -> None:
    assert finish(tmp_path / "told", SignalAt(6, signal.SIGTERM)) == finish(tmp_path / "whole")


def test_two_signals_end_the_run_at_once(tmp_path: Path) -> None:
    twice = [SignalAt(3, signal.SIGINT), SignalAt(3, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as stopped:
        finish(tmp_path, *twice, checkpoint__every=0, eval__every=0)
    assert not isinstance(stopped.value, Stopped)
    assert kept_in(tmp_path) == []


def test_in_another_thread_nobody_can_ask() -> None:
    before, found = signal.getsignal(signal.SIGINT), []

    def listen() -> None:
        with stop_on_signals() as asked:
            found.extend([asked(), signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [None, before]


def test_resume_auto_begins_or_goes_on(tmp_path: Path) -> None:
    whole = finish(tmp_path / "whole")
    with pytest.raises(Stopped):
        finish(tmp_path / "run", SignalAt(3, signal.SIGINT), resume="auto")
    assert finish(tmp_path / "run", resume="auto") == whole


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".step-00000002.123.new.unfinished"
    left.mkdir(parents=True)
    (left / "state.safetensors").write_bytes(b"half")
    finish(tmp_path)
    assert not left.exists()
    assert kept_in(tmp_path)


HOLD = """
import sys
from pathlib import Path
from dmeta.runs.lock import only_one_in
with only_one_in(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_in_a_directory_is_refused_until_the_first_is_gone(
    tmp_path: Path,
) -> None:
    arguments = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(ValueError, match="run_dir must be of one training at a time"):
            finish(tmp_path)
        assert list(tmp_path.iterdir()) == []
        other.kill()  # however it ends
    finish(tmp_path)


def test_a_directory_in_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    with only_one_in(tmp_path / "new" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []
    with only_one_in(tmp_path):
        pass
    assert tmp_path.exists(), "it was there before"
    with only_one_in(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert (tmp_path / "run" / "file").exists()
