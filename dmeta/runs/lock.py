"""One training at a time in a run folder.

Locks the folder itself, not a file as the `filelock` package does: no lock file lies in the runs,
and `is_locked` needs no right to write there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path


class RunLocked(ValueError):
    """Another process trains in the directory."""


@contextlib.contextmanager
def only_one_in(run_dir: Path) -> Iterator[None]:
    """Make the directory, and keep others from training in it until the end, however that comes.

    What was made and is still empty at the end is removed. Where the file system knows no locks
    there is none.

    Raises:
        RunLocked: another process trains in it.
        ValueError: it cannot be made.
    """
    new = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"run_dir must be a folder that can be made, got {run_dir} ({error}); choose another "
            "run_dir"
        ) from None
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:
        _lock(descriptor, run_dir)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # of one that is not empty
                for folder in new:
                    folder.rmdir()
    finally:
        os.close(descriptor)


def is_locked(run_dir: Path) -> bool | None:
    """Whether a process trains in the directory; None: its file system does not say."""
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:  # to take it, shared, for no time
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int, run_dir: Path) -> None:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)  # it may have been `is_locked` that had it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunLocked(
            f"run_dir must be of one training at a time, got {run_dir}, in which another process "
            "is training; wait for its end, or choose another run_dir"
        ) from None
    except OSError:  # a network's file system, say
        pass
