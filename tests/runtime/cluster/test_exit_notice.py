"""A program that Ray ends because its raylet was stopped: one line says why and how to go on."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ray.exceptions import LocalRayletDiedError

from dmeta.runtime.cluster import connect
from dmeta.runtime.options import RuntimeOptions

_PROGRAM = """
import os, signal, subprocess, sys
from dmeta.runtime.cluster import exit_notice
nothing = subprocess.DEVNULL
raylet = subprocess.Popen(["sleep", "3"], stdout=nothing, stderr=nothing)
exit_notice.start_exit_notice(raylet.pid, "go on so")
{ending}
"""

KILLED = "raylet.kill(); os.waitid(os.P_PID, raylet.pid, os.WEXITED | os.WNOWAIT); "
"""And not waited for: a program that ends like this leaves a zombie."""


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (KILLED + "os._exit(1)", True),
        (KILLED + "raylet.wait(); os._exit(1)", True),
        (KILLED + "sys.exit(1)", False),
        (KILLED + "raise RuntimeError", False),
        (KILLED + "exit_notice.end(); os._exit(1)", False),
        ("os._exit(1)", False),
        ("os.kill(os.getpid(), signal.SIGKILL)", False),
    ],
)
def test_it_speaks_only_where_the_program_could_not(ending: str, says: bool) -> None:
    program = [sys.executable, "-c", _PROGRAM.format(ending=ending)]
    # The pipe is open until the watcher, too, has ended.
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    lines = [line for line in ended.stderr.splitlines() if line.startswith("dmeta: ")]
    assert len(lines) == says
    words = ("the program was killed, or ", "was stopped from outside", "go on so")
    assert all(word in line for word in words for line in lines)


@pytest.mark.slow
def test_a_program_whose_raylet_is_stopped_says_why() -> None:
    """A real one; Ray itself then ends the program."""
    program = (
        "import os, signal, ray\n"
        "from dmeta.runtime.cluster import connect\n"
        "connect.connect(None, shows_logs=False, go_on='go on so')\n"
        "os.kill(connect._raylet_pid(), signal.SIGKILL)\n"
        "for _ in range(100):\n"
        "    ray.wait([ray.put(bytes(2**20))], timeout=0.1)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode != 0
    assert "(raylet) was stopped from outside" in ended.stderr
    assert "go on so" in ended.stderr


def test_what_ray_does_tell_of_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "connect", lambda *_, **__: False)
    with (
        pytest.raises(RuntimeError, match=r"stopped from outside.*; go on so") as stop,
        connect.connected(RuntimeOptions(), go_on="go on so"),
    ):
        raise LocalRayletDiedError
    assert isinstance(stop.value.__cause__, LocalRayletDiedError)
