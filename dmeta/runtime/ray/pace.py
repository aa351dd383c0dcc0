"""How long a piece of work usually takes, and from when on one is late or hung. Pure.

Learned from the run itself: whether a block takes a millisecond or a minute, nobody knows before.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

_REMEMBERED = 64
_NEEDED = 3  # of them, before anything is said to be late
_LATE_FACTOR, _LATE_MARGIN_S = 2.0, 0.05
_HUNG_FACTOR, _HUNG_LEAST_S = 20.0, 30.0
_HUNG_UNKNOWN_S = 600.0


class Pace:
    """What the last pieces of work took."""

    def __init__(self, hung_after_s: float | None = None) -> None:
        """Nothing known yet.

        Args:
            hung_after_s: seconds after which one is hung; None: to be learned.
        """
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._fixed_s = hung_after_s
        self._median = math.inf

    def note(self, seconds: float) -> None:
        """A piece of work took so long."""
        self._seconds.append(seconds)
        if len(self._seconds) >= _NEEDED:
            self._median = statistics.median(self._seconds)

    @property
    def late_after_s(self) -> float:
        """Seconds after which it is worth while to have it done elsewhere too."""
        return _LATE_FACTOR * self._median + _LATE_MARGIN_S

    def hung_after_s(self, *, is_first: bool = False) -> float:
        """Seconds after which no answer is expected any more.

        Args:
            is_first: whether it is the first one of a process, which may have to compile.
        """
        if is_first or math.isinf(self._median):
            return _HUNG_UNKNOWN_S
        if self._fixed_s is not None:
            return self._fixed_s
        return max(_HUNG_LEAST_S, _HUNG_FACTOR * self._median)
