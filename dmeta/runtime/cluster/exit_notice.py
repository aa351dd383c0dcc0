"""Says why a program ended where Ray ends it without a word: when the raylet of its node is gone.

Ray then leaves by `_exit`, which no handler and no `finally` sees. A small process waits for that:
it reads from a pipe that this program holds open, and prints one line if the pipe breaks and the
raylet is gone, as it also is where the program was killed and had started it. Knows nothing of what
is computed.
"""

from __future__ import annotations

import atexit
import subprocess
import sys

_WATCHER = """
import os, sys
raylet, notice = int(sys.argv[1]), sys.argv[2]
if sys.stdin.buffer.read():  # "over": it ends by itself
    sys.exit()
try:
    with open(f"/proc/{raylet}/stat") as file:
        is_gone = file.read().rpartition(")")[2].split()[0] in "ZX"
except OSError:
    try:
        os.kill(raylet, 0)
        is_gone = False
    except OSError:
        is_gone = True
if is_gone:
    sys.stderr.write(notice)
"""

GO_ON = "a training or search that has a run_dir goes on with it and resume=true"

_watchers: list[subprocess.Popen[bytes]] = []
"""Of this process: at most one, as it is in at most one cluster."""


def start_exit_notice(raylet_pid: int, go_on: str) -> None:
    """Print why, and how to go on, if this program ends because that raylet is gone.

    Args:
        raylet_pid: process of this machine.
        go_on: what to do then.
    """
    end()
    # A raylet that this program started is killed along with it: which was first, nothing says.
    notice = f"\ndmeta: the program was killed, or {sentence(go_on)}\n"
    # In a session of its own: Ctrl-C is for the program alone.
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHER, str(raylet_pid), notice],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    _watchers.append(watcher)


def sentence(go_on: str) -> str:
    """Why a program ended, and what to do then."""
    return (
        "Ray's own process on this machine (raylet) was stopped from outside, and Ray ends every "
        f"program that uses it; {go_on}"
    )


@atexit.register
def end() -> None:
    """The program leaves the cluster by itself: there will be nothing to say."""
    while _watchers:
        watcher = _watchers.pop()
        if watcher.poll() is None:
            watcher.communicate(b"over")
