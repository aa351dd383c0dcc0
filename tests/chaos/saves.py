"""A checkpoint's writer killed at every system call that it makes (Linux, with strace).

    python -m tests.chaos.saves

A child process writes a checkpoint while strace kills it at its n-th call of a kind; once for every
call that an undisturbed save makes, for a step that is new and for one that is written again. After
each kill, what is there must be whole: the old checkpoint, the new one, or neither (of one that is
replaced); and the next save must succeed.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dmeta.runs.checkpoint import open_checkpoints, read_checkpoint, steps_in, write_checkpoint
from dmeta.runtime.messages import ServerState

OLD, NEW = 1, 2
_CALL = re.compile(r"^(?:\[pid +\d+\] )?(\w+)\(")


def state(step: int) -> ServerState:
    return ServerState(step, {"meta_params/w": np.full(50_000, step, np.float32)})


def save(directory: Path, step: int) -> None:
    progress = {"step": step, "value": step}
    write_checkpoint(open_checkpoints(directory, str(directory)), state(step), progress)


def traced_save(directory: Path, step: int, *options: str) -> tuple[int, list[str]]:
    """Save in a child under strace; its wait status, and the names of its system calls."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read_end, 1)
        save(directory, step)
        os._exit(0)
    command = ["strace", "-f", "-p", str(child), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        lines = [strace.stderr.readline()]
        assert "attached" in lines[0], lines[0]
        os.write(write_end, b"!")
        lines += strace.stderr.readlines()
    os.close(read_end), os.close(write_end)
    calls = [match[1] for line in lines if (match := _CALL.match(line))]
    return os.waitpid(child, 0)[1], calls


def moments(calls: list[str]) -> Iterator[tuple[str, int]]:
    """Each call as its name and which of that name it is."""
    seen: collections.Counter[str] = collections.Counter()
    for name in calls:
        seen[name] += 1
        yield name, seen[name]


def found(directory: Path) -> list[int]:
    """The values of the checkpoints that are listed, all of which must be whole."""
    storage = open_checkpoints(directory, str(directory))
    values = []
    for step in steps_in(storage):
        checkpoint = read_checkpoint(storage, step)
        assert (checkpoint.state.arrays["meta_params/w"] == checkpoint.progress["value"]).all()
        values.append(int(checkpoint.progress["value"]))
    return values


def main() -> int:
    torn = killed = 0
    for step in (NEW, OLD):
        with tempfile.TemporaryDirectory() as name:
            save(Path(name) / "clean", OLD)
            status, calls = traced_save(Path(name) / "clean", step)
            assert status == 0
            for call, number in moments(calls):
                directory = Path(name) / "killed"
                shutil.rmtree(directory, ignore_errors=True)
                save(directory, OLD)
                kill = f"inject={call}:signal=SIGKILL:when={number}"
                status, _ = traced_save(directory, step, "-e", kill)
                killed += os.WIFSIGNALED(status)
                try:
                    values = found(directory)
                    assert values in ([OLD], [OLD, NEW]) or (step == OLD and values == [])
                    open_checkpoints(directory, str(directory)).remove_unfinished()
                    save(directory, step)
                    assert step in found(directory)
                    assert not list(directory.glob(".*"))
                except (AssertionError, ValueError) as error:
                    torn += 1
                    print(f"killed at {call} number {number}: {error!r}")
            print(f"step {'new' if step == NEW else 'replaced'}: {len(calls)} system calls")
    print(f"{killed} kills, {torn} torn")
    return 1 if torn else 0


if __name__ == "__main__":
    sys.exit(main())
