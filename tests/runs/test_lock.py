"""Who looks whether a run goes on does not disturb it."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

from dmeta.runs.lock import is_locked, only_one_in


def test_a_run_that_goes_on_is_seen(tmp_path: Path) -> None:
    assert is_locked(tmp_path) is False
    with only_one_in(tmp_path):
        assert is_locked(tmp_path) is True
    assert is_locked(tmp_path) is False


def test_a_file_system_without_locks_says_nothing(tmp_path: Path, monkeypatch: object) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)  # type: ignore[attr-defined]
    assert is_locked(tmp_path) is None
    with only_one_in(tmp_path):
        pass


def test_a_run_begins_although_somebody_looked_just_then(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)

    def let_go() -> None:
        time.sleep(0.02)
        os.close(descriptor)

    looks = threading.Thread(target=let_go)
    looks.start()
    with only_one_in(tmp_path):
        looks.join()
        assert is_locked(tmp_path) is True
