"""One run at a time in a process.

A run sets torch's number of threads and random generator, the log of `dmeta` and (while settings
are composed) Hydra's state. All of these belong to the whole process, so two runs in two threads
would change each other's numbers.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_lock = threading.RLock()  # re-entrant: an observer may call another verb, such as evaluate
_holders: list[str] = []


@contextlib.contextmanager
def alone_in_process(verb: str) -> Iterator[None]:
    """Hold the process for one verb.

    Args:
        verb: as the user calls it (``dmeta.train``).

    Raises:
        RuntimeError: another thread of this process is in one.
    """
    if not _lock.acquire(blocking=False):
        running = next(reversed(_holders), "another verb")
        raise RuntimeError(
            f"{verb} must be the only one in its process, got {running} running in another thread "
            "(both would set torch's threads and random generator); wait for it, or use another "
            "process (concurrent.futures.ProcessPoolExecutor), or dmeta.tune for several runs"
        )
    try:
        _holders.append(verb)
        yield
    finally:
        _holders.pop()
        _lock.release()
