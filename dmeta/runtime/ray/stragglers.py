"""Which worker is late or hung: how long each has been silent, against the pace of the run.

A worker that holds several blocks computes the oldest: it is silent since it last answered, or
since that block was sent to it, whichever is later. Knows no Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container
from typing import NamedTuple

from dmeta.runtime.ray.pace import Pace


class Overdue(NamedTuple):
    """A worker that is late.

    Attributes:
        worker: its number.
        silent_s: seconds since it could begin with what it does.
        is_hung: whether it is not expected to answer any more.
    """

    worker: int
    silent_s: float
    is_hung: bool


class _Sent(NamedTuple):
    """A block that a worker holds."""

    number: int
    kind: str
    since: float


class Patience:
    """Tracks what was sent and answered: how long to wait, and which workers are overdue."""

    def __init__(
        self, hung_after_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing sent yet.

        Args:
            hung_after_s: see `Pace`.
            clock: rising seconds.
        """
        self._hung_after_s, self._clock = hung_after_s, clock
        self._held: dict[int, list[_Sent]] = {}  # by each worker, the oldest first
        self._heard: dict[int, float] = {}  # when each last answered
        self._warm: set[tuple[int, str]] = set()  # which has done what kind of work before
        self._paces: dict[str, Pace] = {}
        self._look_at = math.inf

    @property
    def left_s(self) -> float:
        """Seconds until somebody may be overdue."""
        return max(0.0, self._look_at - self._clock())

    def sent(self, worker: int, number: int, kind: str) -> None:
        """A block was sent to a worker.

        Args:
            worker: to which.
            number: of the block.
            kind: of work that takes about as long as other work of that kind.
        """
        self._held.setdefault(worker, []).append(_Sent(number, kind, self._clock()))
        self._look_within(kind)

    def begins(self, numbers: Container[int]) -> None:
        """What was sent before its input was there can be begun only now."""
        now = self._clock()
        for worker, held in self._held.items():
            self._held[worker] = [s._replace(since=now) if s.number in numbers else s for s in held]

    def answered(self, worker: int, number: int) -> None:
        """The worker returned a block. How long it took is learned, but for a process's first."""
        sent, now = self._take(worker, number), self._clock()
        if (worker, sent.kind) in self._warm:
            self._pace(sent.kind).note(now - self._began(worker, sent))
        self._warm.add((worker, sent.kind))
        self._heard[worker] = now
        self._look_within(sent.kind)

    def lost(self, worker: int, number: int) -> None:
        """A block was lost with its worker, which comes back, if it does, as a new process."""
        self._take(worker, number)
        self._warm = {(other, kind) for other, kind in self._warm if other != worker}

    def killed(self, worker: int) -> None:
        """The worker was killed; until its blocks are said to be lost, it is not overdue again."""
        self._heard[worker] = self._clock()
        self._look_at = min(self._look_at, self._heard[worker] + self._limits(worker)[0])

    def overdue(self) -> list[Overdue]:
        """Who is late now; looks no more often than somebody can have become so."""
        now = self._clock()
        if now < self._look_at:
            return []
        self._look_at = math.inf
        found = []
        for worker, held in self._held.items():
            if not held:
                continue
            silent_s = now - self._began(worker, held[0])
            late, hung = self._limits(worker)
            if silent_s >= min(late, hung):  # late is not known before hung is
                found.append(Overdue(worker, silent_s, silent_s >= hung))
            left = [limit - silent_s for limit in (late, hung) if limit > silent_s]
            self._look_at = min([self._look_at, *(now + seconds for seconds in left)])
        return found

    def _limits(self, worker: int) -> tuple[float, float]:
        """Seconds after which the worker is late with what it does, and hung."""
        kind = self._held[worker][0].kind
        pace, is_first = self._pace(kind), (worker, kind) not in self._warm
        return pace.late_after_s, pace.hung_after_s(is_first=is_first)

    def _look_within(self, kind: str) -> None:
        """Look again when a worker that begins such work now would be late."""
        pace = self._pace(kind)
        limit = min(pace.late_after_s, pace.hung_after_s(is_first=True))
        self._look_at = min(self._look_at, self._clock() + limit)

    def _began(self, worker: int, sent: _Sent) -> float:
        return max(sent.since, self._heard.get(worker, sent.since))

    def _take(self, worker: int, number: int) -> _Sent:
        held = self._held[worker]
        sent = next(s for s in held if s.number == number)
        held.remove(sent)
        return sent

    def _pace(self, kind: str) -> Pace:
        return self._paces.setdefault(kind, Pace(self._hung_after_s))
