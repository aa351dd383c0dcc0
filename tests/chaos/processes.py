"""Processes that were started from here: found by what they are, and ended by their ids.

Whoever loses its parent becomes a child of this process (`adopting`), so that its descendants are
all there is to look at, whatever was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import psutil

_SET_CHILD_SUBREAPER = 36  # prctl(2)

ACTORS = {"worker": "ray::TaskWorkerActor", "server": "ray::ParameterServerActor"}
_NAMES = {"raylet": "raylet", "gcs_server": "gcs"}


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Within it, orphaned descendants become children of this process; at the end all are ended."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        end(descendants())
        prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """Everything alive that was started from here."""
    return [p for p in psutil.Process().children(recursive=True) if is_alive(p)]


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs, or is stopped; a zombie is dead."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def role_of(process: psutil.Process) -> str:
    """``worker``, ``server``, ``raylet``, ``gcs``, ``driver``, or ``other``."""
    try:
        name, command = process.name(), process.cmdline()
    except psutil.Error:
        return "other"
    for role, title in ACTORS.items():
        if command and command[0].startswith(title):
            return role
    if name in _NAMES:
        return _NAMES[name]
    return "driver" if command[1:4] == ["-m", "dmeta", "train"] else "other"


def find(role: str, among: Iterable[psutil.Process] | None = None) -> list[psutil.Process]:
    """Those of a role, oldest first."""
    found = [p for p in (descendants() if among is None else among) if role_of(p) == role]
    return sorted(found, key=lambda process: process.pid)


def send(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to each that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def end(processes: Sequence[psutil.Process], grace_s: float = 5.0) -> None:
    """SIGTERM, and SIGKILL to those that stay; stopped ones are woken first."""
    send(processes, signal.SIGTERM)
    send(processes, signal.SIGCONT)
    deadline = time.monotonic() + grace_s
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    send([p for p in processes if is_alive(p)], signal.SIGKILL)
    while any(map(is_alive, processes)):
        time.sleep(0.05)
    _reap()


def _reap() -> None:
    """Take away what died of the adopted; nobody else waits for a child at this time."""
    for child in psutil.Process().children():
        if not is_alive(child):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)


def command(*words: str, environment: dict[str, str] | None = None, timeout_s: float = 90) -> str:
    """Run a command to its end and return its output.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {said}")
    return done.stdout


@dataclass(frozen=True)
class Memory:
    """Resident memory at one moment, in bytes: the largest process of each role."""

    at_s: float
    resident_bytes: dict[str, int]


class MemoryCurve:
    """Resident memory of driver, server, workers and Ray's own, measured every few seconds."""

    def __init__(self, every_s: float = 2.0) -> None:
        """Measures within `with`."""
        self.points: list[Memory] = []
        self._every_s = every_s
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> MemoryCurve:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._over.wait(self._every_s):
            resident: dict[str, int] = {}
            for process in descendants():
                role = role_of(process)
                with contextlib.suppress(psutil.Error):
                    size = int(process.memory_info().rss)
                    resident[role] = max(resident.get(role, 0), size)
            self.points.append(Memory(time.monotonic() - self._began, resident))
