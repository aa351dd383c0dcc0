"""Detects that the head of the cluster is gone.

A run's own calls go on without it for a while, but Ray ends the program a minute after it was lost,
with no way to catch that. So it is asked now and then, and the run ended in time, by its own words.
"""

from __future__ import annotations

import threading
import time

from dmeta.runtime.cluster import access

_ASK_EVERY_S = 5.0
_LOST_AFTER_S = 30.0


class HeadWatch:
    """Asks the head on a thread of its own, until it is closed."""

    def __init__(
        self,
        address: str,
        ask_every_s: float = _ASK_EVERY_S,
        lost_after_s: float = _LOST_AFTER_S,
    ) -> None:
        """Begin.

        Args:
            address: ``host:port`` of the head.
            ask_every_s: seconds between two questions.
            lost_after_s: seconds without an answer after which it is lost; it has to be back
                before, as Ray lets a head be restarted.
        """
        self._address, self._ask_every_s, self._lost_after_s = address, ask_every_s, lost_after_s
        self._silent_since: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Return if the head is there, or not yet given up.

        Raises:
            RuntimeError: it is lost.
        """
        since = self._silent_since
        if since is not None and time.monotonic() - since >= self._lost_after_s:
            raise RuntimeError(
                f"the head of the Ray cluster ({self._address}) must answer, got nothing for "
                f"{self._lost_after_s:.0f} s; start the cluster again, or leave runtime.address "
                "out, and continue with resume=auto"
            )

    def close(self) -> None:
        """Stop asking."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._ask_every_s):
            asked = time.monotonic()
            if access.ask(self._address).what != "nothing":  # a refusal is an answer
                self._silent_since = None
            elif self._silent_since is None:
                self._silent_since = asked
