"""Which workers a run has, as Ray actors: started, built, replaced where they are gone for good.

Knows no block. What becomes of a worker is told as `News`, to whoever hands out the blocks.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from dmeta.runtime.actors import WorkerStatus
from dmeta.runtime.hardware import by_kind
from dmeta.runtime.protocol import Hardware
from dmeta.runtime.remote import Actor, Ref, raise_cause

_LOG = logging.getLogger(__name__)

START_TIMEOUT_S = 600.0
"""Seconds that workers may take to be placed and built before the run gives up."""


class News(NamedTuple):
    """What became of a worker that was being built.

    Attributes:
        worker: its number.
        what: ``built`` where it was before; ``moved``: built on a node that is new to it;
            ``replaced``: another one, which is being built, has its number; ``given up``.
    """

    worker: int
    what: Literal["built", "moved", "replaced", "given up"]


class Roster:
    """The workers by number. Those that are being built are in `building`."""

    def __init__(self, start: Callable[[int], Actor], factory: Ref, max_attempts: int) -> None:
        """Nobody yet.

        Args:
            start: starts the one of a number.
            factory: of the work; each worker builds its own from it.
            max_attempts: replacements of one number, in a row, before it is given up.
        """
        self._start, self._factory, self._max_attempts = start, factory, max_attempts
        self._workers: dict[int, Actor] = {}
        self._num_started = 0  # numbers that were given
        self._num_given_up = 0
        self._building: dict[Ref, int] = {}
        self._nodes: dict[int, str] = {}  # where the workers are that were ever built
        self._hardware: dict[int, Mapping[str, str]] = {}  # and what they compute on
        self._replaced: Counter[int] = Counter()  # times in a row

    def grow(self, num_workers: int) -> list[int]:
        """Start as many workers as are missing; their numbers."""
        started = []
        while self.num_workers < num_workers:
            number, self._num_started = self._num_started, self._num_started + 1
            self._workers[number] = self._start(number)
            self.build(number)
            started.append(number)
        return started

    def build(self, worker: int) -> None:
        """Have the worker build its work, as soon as its process is there (again)."""
        self._building[self._workers[worker].build.remote(self._factory)] = worker

    @property
    def building(self) -> list[Ref]:
        """What is there when a worker has been built, or never will be: then `hear`."""
        return list(self._building)

    @property
    def num_workers(self) -> int:
        """Those that answer, are waited for, or were given up: no others take their places."""
        return len(self._workers) + self._num_given_up

    @property
    def num_nodes(self) -> int:
        """On which workers are, or were."""
        return len(set(self._nodes.values()))

    def node(self, worker: int) -> str:
        """Where the worker is or was, as Ray names it; nothing if it was never built."""
        return self._nodes.get(worker, "")

    @property
    def hardware(self) -> tuple[Hardware, ...]:
        """What the workers compute on that were ever built."""
        return by_kind(self._hardware)

    def __getitem__(self, worker: int) -> Actor:
        """The actor with a number."""
        return self._workers[worker]

    def actors(self) -> list[Actor]:
        """All of them."""
        return list(self._workers.values())

    def wait_until_built(self, min_workers: int | None) -> list[tuple[News, WorkerStatus]]:
        """Wait for all workers, or for so many: who they are. The others join later.

        Raises:
            RuntimeError: fewer were there within `START_TIMEOUT_S`.
            Exception: what the factory raised.
        """
        needed = min(len(self._workers), min_workers or len(self._workers))
        ready, _ = ray.wait(self.building, num_returns=needed, timeout=START_TIMEOUT_S)
        if len(ready) < needed:
            raise RuntimeError(
                f"{needed} workers must start within {START_TIMEOUT_S:g} s, got {len(ready)}; "
                "lower runtime.num_workers or runtime.min_workers, or free CPUs and GPUs that "
                "other jobs hold on the cluster (`ray status` shows them)"
            )
        try:
            statuses: list[WorkerStatus] = ray.get(ready)
        except RayTaskError as error:
            raise_cause(error)
        return [
            (self._built(self._building.pop(ref), status), status)
            for ref, status in zip(ready, statuses, strict=True)
        ]

    def hear(self, ref: Ref, *, others_do: bool) -> News:
        """A worker was built, or never will be: then another takes its place.

        Args:
            ref: of `building`, that is there.
            others_do: whether enough workers are there. If not, what the factory raises is raised:
                else that a new worker can not be built, on a node that just joined, is no reason
                to end.
        """
        worker = self._building.pop(ref)
        try:
            status: Any = ray.get(ref)
        except RayError as error:
            others_do = others_do and worker not in self._nodes
            if isinstance(error, RayTaskError) and not others_do:
                raise_cause(error)
            return self._replace(worker, error)
        num_kinds = len(self.hardware)
        news = self._built(worker, status)
        if len(self.hardware) > num_kinds:
            _LOG.warning(
                "worker %d computes on %s, as none before it: the bits of a result depend on who "
                "computes it",
                worker,
                dict(status.hardware),
                extra={"worker": worker},
            )
        return news

    def _built(self, worker: int, status: WorkerStatus) -> News:
        self._replaced[worker] = 0
        moved = self._nodes.get(worker) != status.node
        self._nodes[worker] = status.node
        self._hardware[worker] = status.hardware
        return News(worker, "moved" if moved else "built")

    def _replace(self, worker: int, error: RayError) -> News:
        self._replaced[worker] += 1
        if self._replaced[worker] > self._max_attempts:
            _LOG.warning(
                "worker %d could not be replaced (%s); going on without",
                worker,
                error,
                extra={"worker": worker},
            )
            del self._workers[worker]
            self._num_given_up += 1
            return News(worker, "given up")
        _LOG.warning(
            "worker %d is gone for good (%s); another is started",
            worker,
            error,
            extra={"worker": worker},
        )
        self._workers[worker] = self._start(worker)
        self.build(worker)
        return News(worker, "replaced")
