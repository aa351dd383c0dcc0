"""Which worker computes which block, and what follows when a worker is lost. Pure: no Ray, no time.

A `Schedule` is the state of one round (the blocks of one step or evaluation). The runtime tells it
what happened (`done`, `lost`, `back`, `gone`) and asks what to start next (`assign`). It decides:

- Blocks, not workers, are scheduled: a worker that is free takes the next block in order of index.
- A worker is given a second block while it computes its first, so that it never waits for a
  message; not near the end of a round, where that block would wait behind a busy worker while
  another one is idle.
- The first result of a block wins; any other is ignored. So each block counts exactly once.
- A lost worker's blocks go back to the queue. Only the block it was computing (its oldest one) is
  charged an attempt: blocks that waited behind it did not cause the loss. A block that has lost
  `max_attempts` workers fails the round.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class RoundFailed(RuntimeError):
    """A round cannot be finished: a block was lost too often, or no worker is left."""


class Assignment(NamedTuple):
    """Start block number `block` (a position in the round) on worker number `worker`."""

    worker: int
    block: int


@dataclass
class _WorkerState:
    """Blocks in flight, oldest first, and whether the worker may be given more."""

    in_flight: list[int] = field(default_factory=list)
    up: bool = True


class Schedule:
    """The state of one round; see the module for what it decides."""

    def __init__(
        self,
        num_blocks: int,
        workers: Iterable[int],
        *,
        max_attempts: int,
        restarting: Iterable[int] = (),
        max_in_flight: int = 2,
    ) -> None:
        """Start a round.

        Args:
            num_blocks: blocks of the round, numbered from 0.
            workers: all workers that may compute.
            max_attempts: losses of one block that end the round.
            restarting: those of them that get no block until `back`.
            max_in_flight: blocks that a worker may hold.
        """
        assert max_attempts >= 1
        assert max_in_flight >= 1
        self._queue = list(range(num_blocks))
        down = set(restarting)
        self._workers = {worker: _WorkerState(up=worker not in down) for worker in workers}
        self._losses = [0] * num_blocks
        self._done: set[int] = set()
        self._num_blocks = num_blocks
        self._max_attempts = max_attempts
        self._max_in_flight = max_in_flight
        self.num_retries = 0

    @property
    def finished(self) -> bool:
        """Whether every block has a result."""
        return len(self._done) == self._num_blocks

    def assign(self) -> list[Assignment]:
        """What to start now; the schedule takes it as started.

        Raises: RoundFailed: blocks remain and every worker is gone for good.
        """
        if not self.finished and not self._workers:
            missing = sorted(set(range(self._num_blocks)) - self._done)
            raise RoundFailed(f"no worker is left to compute blocks {missing}")
        started = []
        for depth in range(self._max_in_flight):
            for worker, state in self._workers.items():
                if not self._queue:
                    break
                ahead = depth > 0 and len(self._queue) < len(self._workers)
                if state.up and len(state.in_flight) == depth and not ahead:
                    block = self._queue.pop(0)
                    state.in_flight.append(block)
                    started.append(Assignment(worker, block))
        return started

    def done(self, worker: int, block: int) -> bool:
        """The worker returned the block; False if the block already had a result."""
        self._take(worker, block)
        if block in self._done:
            return False
        self._done.add(block)
        return True

    def lost(self, worker: int, block: int, cause: str) -> bool:
        """The block's computation was lost with its worker (or could not reach it).

        Args:
            worker: the worker; it gets no block until `back`.
            block: the block, which goes back to the queue.
            cause: what happened, in words, for the message of the error.
        Returns: whether nothing of that worker is in flight any more: the time to ask it whether
            it is back.
        Raises: RoundFailed: the block being computed was lost `max_attempts` times.
        """
        state = self._workers.get(worker)
        if state is not None and state.up:
            state.up = False
            self._charge(state.in_flight[0], cause)
        self._take(worker, block)
        if block not in self._done:
            bisect.insort(self._queue, block)
            self.num_retries += 1
        return state is not None and not state.in_flight

    def back(self, worker: int) -> None:
        """The worker was restarted and answers again."""
        if worker in self._workers:
            self._workers[worker].up = True

    def gone(self, worker: int) -> None:
        """The worker will not come back; it must have nothing in flight."""
        state = self._workers.pop(worker, None)
        assert state is None or not state.in_flight

    def _charge(self, block: int, cause: str) -> None:
        self._losses[block] += 1
        if self._losses[block] >= self._max_attempts:
            raise RoundFailed(
                f"block {block} was lost {self._losses[block]} times "
                f"(runtime.max_attempts={self._max_attempts}); last cause: {cause}"
            )

    def _take(self, worker: int, block: int) -> None:
        self._workers[worker].in_flight.remove(block)
