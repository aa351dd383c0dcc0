"""One training at a time at a URL, as far as a storage without locks allows it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dmeta.quoting import printable
from dmeta.runs.lock import RunLocked
from dmeta.runs.remote_mirror import DistantFolder

_LOG = logging.getLogger(__name__)

MARK = "running.json"
"""What a training leaves at its address as long as it lives."""

BEAT_S = 10.0
"""Between two changes of the mark."""

SILENCE_S = 40.0
"""A mark that does not change for so long is that of a training that was killed."""

_SETTLE_S = 0.5  # two that begin together have both written their marks by then
_LOOK_S = 1.0  # a waiting process should soon see that the mark is gone


@contextlib.contextmanager
def only_one_at(
    there: DistantFolder, sleep: Callable[[float], object] = time.sleep
) -> Iterator[None]:
    """Keep others from training at an address until the end, however that comes.

    A mark there changes as long as this training runs; a process that finds one waits to see
    whether it changes. Of two that start at the same moment, the last one to write its mark stays.

    Args:
        there: where.
        sleep: waits so many seconds.

    Raises:
        RunLocked: another training lives.
        ValueError: the address cannot be read, or not be written to.
    """
    _wait_for_silence(there, sleep)
    own = secrets.token_hex(8)
    content = {"host": socket.gethostname(), **_process(os.getpid()), "id": own}

    def beat(count: int) -> None:
        there.write(MARK, json.dumps({**content, "beat": count}).encode())

    def is_ours() -> bool:
        found = there.read(MARK)
        return found is None or _field(found, "id") == own

    try:
        beat(0)
    except OSError as error:
        raise ValueError(
            f"run_dir must be an address that can be written to, got {there.address} ({error}); "
            "give the rights to it, or choose another run_dir"
        ) from error
    sleep(_SETTLE_S)
    if not is_ours():
        raise RunLocked(
            f"run_dir must be of one training at a time, got {there.address}, in which another one "
            "began at the same moment; wait for its end, or choose another run_dir"
        )
    over = threading.Event()
    thread = threading.Thread(target=_beat_on, args=(beat, is_ours, over), name="mark", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(Exception):  # the next process waits, then continues
            if is_ours():
                there.remove(MARK)


def _beat_on(
    beat: Callable[[int], None], is_ours: Callable[[], bool], over: threading.Event
) -> None:
    count = 0
    while not over.wait(BEAT_S):
        count += 1
        with contextlib.suppress(Exception):  # the next one will do
            if not is_ours():  # we were silent for so long that another one began
                _LOG.warning("another training has taken over our run_dir; both write there now")
                return
            beat(count)


def _wait_for_silence(there: DistantFolder, sleep: Callable[[float], object]) -> None:
    """Return once there is no mark, or one that does not change.

    What time it says, or the storage, is not looked at: clocks of machines need not agree.

    Raises:
        RunLocked: it changes.
    """
    first = there.read(MARK)
    if first is None or is_of_the_dead(first):
        return
    host = _field(first, "host")
    _LOG.warning(
        "%s has the mark of a training on %s; waiting up to %g s to see whether that still lives",
        there.address,
        host,
        SILENCE_S,
    )
    for _ in range(int(SILENCE_S / _LOOK_S)):
        sleep(_LOOK_S)
        now = there.read(MARK)
        if now is None:
            return
        if now != first:
            raise RunLocked(
                f"run_dir must be of one training at a time, got {there.address}, in which one on "
                f"{host} is training; wait for its end, or choose another run_dir"
            )


def is_of_the_dead(mark: bytes) -> bool:
    """Whether a mark is that of a process of this machine that has ended."""
    try:
        content = json.loads(mark)
        found = {key: content[key] for key in ("machine", "pid", "started")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    if found["machine"] is None or found["machine"] != _machine():
        return False
    return type(found["pid"]) is int and found != _process(found["pid"])


def _process(pid: int) -> dict[str, Any]:
    """What tells a process from all others, on other machines and at other times."""
    try:  # the 22nd field; the name of the program, in brackets, may hold spaces
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state, started = fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return {"machine": _machine(), "pid": pid, "started": None}
    return {"machine": _machine(), "pid": pid, "started": None if state in "ZX" else started}


def _machine() -> str | None:
    """This machine since its last start, as this container numbers processes; None: not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _field(mark: bytes, name: str) -> str:
    try:
        return printable(str(json.loads(mark)[name]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"some {name}"
