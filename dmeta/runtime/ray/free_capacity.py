"""How many workers the cluster could have, polled while the run goes on.

On a thread of its own: Ray's answer may be as long in coming as its head is away, and the run must
notice that by itself (`dmeta.runtime.ray.head_monitor`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_EVERY_S = 2.0


class Room:
    """The last answer."""

    def __init__(self, look: Callable[[], int], first: int) -> None:
        """Begin to look.

        Args:
            look: counts the workers that there is room for now.
            first: what it was before.
        """
        self._look, self.num_workers = look, first
        self._over = threading.Event()
        threading.Thread(target=self._look_on, name="room", daemon=True).start()

    def close(self) -> None:
        """Look no more; without waiting for an answer that may never come."""
        self._over.set()

    def _look_on(self) -> None:
        while not self._over.wait(_EVERY_S):
            try:
                self.num_workers = self._look()
            except Exception:  # the cluster is gone: others report that
                return
