"""Processes that were started for a training: found by what they are, ended by their ids.

All that is started gets a mark in its environment, and passes it on. So a process is found whoever
its parent is now. (Adopting orphans here would be simpler, and wrong: a Ray worker ends itself when
it sees that its parent has become process 1, as it does where nobody adopts.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import psutil

MARK = {"DMETA_CHAOS": secrets.token_hex(8)}
"""Of this process: goes into the environment of all that it starts."""

ACTORS = {"worker": "ray::TaskWorkerActor", "server": "ray::ParameterServerActor"}
_NAMES = {"raylet": "raylet", "gcs_server": "gcs"}


_known: set[psutil.Process] = set()  # some of Ray's overwrite their environment with a title
_lock = threading.Lock()


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    """At the end of it, all that was started is ended, also if that is a SIGTERM."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        end(started())
        signal.signal(signal.SIGTERM, before)


def started() -> list[psutil.Process]:
    """Everything alive that has the mark, was seen with it, or descends from such a process."""
    with _lock:
        everything = [p for p in psutil.process_iter() if is_alive(p)]
        found = {p for p in everything if p in _known or _is_marked(p)}
        children: dict[int, list[psutil.Process]] = {}
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                children.setdefault(process.ppid(), []).append(process)
        new = list(found)
        while new:
            new = [c for p in new for c in children.get(p.pid, []) if c not in found]
            found.update(new)
        _known.clear()
        _known.update(found)
        return sorted(found, key=lambda process: process.pid)


def _is_marked(process: psutil.Process) -> bool:
    try:
        return MARK.items() <= process.environ().items()
    except psutil.Error:  # gone, or another user's
        return False


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
    found = [p for p in (started() if among is None else among) if role_of(p) == role]
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
    """Take away our own children that are dead; nobody else waits for one at this time."""
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
            for process in started():
                role = role_of(process)
                with contextlib.suppress(psutil.Error):
                    size = int(process.memory_info().rss)
                    resident[role] = max(resident.get(role, 0), size)
            self.points.append(Memory(time.monotonic() - self._began, resident))
