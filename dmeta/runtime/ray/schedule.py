"""Which worker computes which block, and what happens when one is lost or late.

Pure: no Ray, no time. A `Schedule` lives as long as its workers. The runtime tells it which blocks
are wanted and what happened (`done`, `lost`, `late`, `back`, `gone`) and asks what to start next
(`assign`). It decides:

- Blocks, not workers, are scheduled: a worker that is free takes the next block in their order.
- A worker is given a second block while it computes its first, so that it never waits for a
  message; not near the end of what is wanted, where that block would wait behind a busy worker
  while another one is idle.
- The first result of a block wins; any other is ignored. So each block counts exactly once.
- A lost worker's blocks go back to the queue. Only the block it was computing (its oldest one) is
  charged an attempt: blocks that waited behind it did not cause the loss. A block that has lost
  `max_attempts` workers fails.
- A late worker's blocks are given to others too, once these have nothing else to do; it is given
  no more until it has answered.
- With fewer than `min_workers`, nothing is started.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class RoundFailed(RuntimeError):
    """What is wanted cannot be had: a block was lost too often, or no worker is left."""

    def __init__(self, message: str, block: int) -> None:
        """Because of `block`, the first that is missing."""
        super().__init__(message)
        self.block = block


class Assignment(NamedTuple):
    """Start block number `block` on worker number `worker`."""

    worker: int
    block: int


@dataclass
class _WorkerState:
    """Blocks in flight, oldest first, and whether the worker may be given more."""

    in_flight: list[int] = field(default_factory=list)
    up: bool = True
    late: bool = False


class Schedule:
    """Blocks and workers; see the module for what it decides.

    Attributes:
        num_retries: blocks put back into the queue because their worker was lost.
        num_copies: blocks started a second time because their worker was late.
    """

    def __init__(
        self,
        workers: Iterable[int],
        *,
        max_attempts: int,
        min_workers: int = 1,
        max_in_flight: int = 2,
        is_endless: bool = False,
    ) -> None:
        """Start with all workers up.

        Args:
            workers: their numbers.
            max_attempts: losses of one block that are too many.
            min_workers: below so many that are up, nothing is started.
            max_in_flight: blocks that a worker may hold.
            is_endless: more will be wanted before the last block is done; no block is kept back
                for a worker that is free first.
        """
        assert max_attempts >= 1
        assert max_in_flight >= 1
        self._workers = {worker: _WorkerState() for worker in workers}
        self._max_attempts, self._min_workers = max_attempts, min_workers
        self._max_in_flight, self._is_endless = max_in_flight, is_endless
        self._queue: list[int] = []
        self._losses: dict[int, int] = {}  # of the blocks that are wanted and have no result
        self._next = 0
        self.num_retries = self.num_copies = 0

    def want(self, num_blocks: int) -> range:
        """So many new blocks; returns their numbers, which are never used again."""
        numbers = range(self._next, self._next + num_blocks)
        self._next = numbers.stop
        self._queue.extend(numbers)
        self._losses.update(dict.fromkeys(numbers, 0))
        return numbers

    def forget(self) -> None:
        """Nothing is wanted any more; what is in flight is only waited for."""
        self._queue.clear()
        self._losses.clear()

    def is_missing(self, blocks: Iterable[int]) -> bool:
        """Whether one of the blocks has no result yet."""
        return not self._losses.keys().isdisjoint(blocks)

    @property
    def num_up(self) -> int:
        """Workers that may be given blocks."""
        return sum(state.up for state in self._workers.values())

    def assign(self) -> list[Assignment]:
        """What to start now; the schedule takes it as started.

        Raises: RoundFailed: blocks are wanted and every worker is gone for good.
        """
        if self._losses and not self._workers:
            raise RoundFailed("no worker is left to compute blocks", min(self._losses))
        if not self._losses or self.num_up < self._min_workers:
            return []
        free = {w: state for w, state in self._workers.items() if state.up and not state.late}
        started, num_up = [], self.num_up
        for depth in range(self._max_in_flight):
            for worker, state in free.items():
                is_early = depth > 0 and len(self._queue) < num_up and not self._is_endless
                if self._queue and len(state.in_flight) == depth and not is_early:
                    started.append(self._start(worker, self._queue.pop(0)))
        idle = [worker for worker, state in free.items() if not state.in_flight]
        return started + [self._copy(w, block) for w, block in self._copies(idle)]

    def done(self, worker: int, block: int) -> bool:
        """The worker returned the block; False if nobody wants that result (any more)."""
        state = self._workers[worker]
        state.in_flight.remove(block)
        state.late = False
        if self._losses.pop(block, None) is None:
            return False
        if block in self._queue:  # lost by one worker, returned by another that was late
            self._queue.remove(block)
        return True

    def late(self, worker: int) -> None:
        """The worker takes much longer than usual for its oldest block."""
        self._workers[worker].late = True

    def lost(self, worker: int, block: int, cause: str) -> None:
        """The block's computation was lost with its worker (or could not reach it).

        Args:
            worker: the worker; it gets no block until `back`.
            block: the block, which goes back to the queue, unless others compute it.
            cause: what happened, in words, for the message of the error.
        Raises: RoundFailed: the block being computed was lost `max_attempts` times.
        """
        state = self._workers[worker]
        was_up, oldest = state.up, state.in_flight[0]
        state.up = state.late = False
        state.in_flight.remove(block)
        if block in self._losses and not self._is_held(block) and block not in self._queue:
            bisect.insort(self._queue, block)
            self.num_retries += 1
        if was_up:
            self._charge(oldest, cause)

    def back(self, worker: int) -> None:
        """The worker answers again, or for the first time."""
        self._workers[worker].up = True

    def arrange(self, place: Callable[[int], str]) -> None:
        """Workers of one place take neighbouring blocks, if all are free.

        Args:
            place: of a worker's number.
        """
        in_order = sorted(self._workers, key=lambda worker: (place(worker), worker))
        self._workers = {worker: self._workers[worker] for worker in in_order}

    def away(self, worker: int) -> None:
        """The worker, perhaps a new one, gets no block until `back`; it has nothing in flight."""
        self._workers.setdefault(worker, _WorkerState()).up = False

    def gone(self, worker: int) -> None:
        """The worker will not come back; it must have nothing in flight."""
        state = self._workers.pop(worker, None)
        assert state is None or not state.in_flight

    def is_lost(self, worker: int) -> bool:
        """Whether the worker is not up, and no answer of its is awaited any more."""
        state = self._workers[worker]
        return not (state.up or state.in_flight)

    def _start(self, worker: int, block: int) -> Assignment:
        self._workers[worker].in_flight.append(block)
        return Assignment(worker, block)

    def _copy(self, worker: int, block: int) -> Assignment:
        self.num_copies += 1
        return self._start(worker, block)

    def _copies(self, idle: list[int]) -> list[tuple[int, int]]:
        """Which idle worker takes a copy of which block: of those that only late workers hold."""
        if not idle or self._queue:
            return []
        punctual = {
            block for state in self._workers.values() if not state.late for block in state.in_flight
        }
        wanted = {
            block
            for state in self._workers.values()
            if state.late
            for block in state.in_flight
            if block in self._losses and block not in punctual
        }
        return list(zip(idle, sorted(wanted), strict=False))

    def _is_held(self, block: int) -> bool:
        return any(block in state.in_flight for state in self._workers.values())

    def _charge(self, block: int, cause: str) -> None:
        if block not in self._losses:
            return
        self._losses[block] += 1
        if self._losses[block] >= self._max_attempts:
            raise RoundFailed(
                f"it was lost {self._losses[block]} times "
                f"(runtime.max_attempts={self._max_attempts}); last cause: {cause}",
                block,
            )
