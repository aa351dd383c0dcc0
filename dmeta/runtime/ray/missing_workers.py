"""Warns, soon and then from time to time, while fewer workers answer than a run needs."""

from __future__ import annotations

import logging
import math
import time

_LOG = logging.getLogger(__name__)

_AFTER_S, _EVERY_S = 5.0, 60.0


class MissingWorkers:
    """Since when workers are missing, and when that is to be said next."""

    def __init__(self) -> None:
        """None is missing yet."""
        self._warn_at: float | None = None  # None: none is missing

    def warn_if_long(self, num_up: int, least: int) -> float:
        """Warn if that is due.

        Args:
            num_up: workers that answer.
            least: that the run needs.

        Returns: seconds until a warning is due; infinity if no worker is missing.
        """
        if num_up >= least:
            self._warn_at = None
            return math.inf
        now = time.monotonic()
        if self._warn_at is None:
            self._warn_at = now + _AFTER_S
        if now >= self._warn_at:
            self._warn_at = now + _EVERY_S
            _LOG.warning(
                "waiting for workers: %d of at least %d (runtime.min_workers) answer; the others "
                "are started again as soon as the cluster has room for them",
                num_up,
                least,
            )
        return self._warn_at - now
