"""The workers of a run, as Ray actors: started, built, and replaced when they are lost.

Knows no block. What becomes of a worker is returned as `News`, for the scheduler of blocks.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

import ray
from ray.exceptions import RayError, RayTaskError

from dmeta.runtime.hardware import by_kind
from dmeta.runtime.messages import Hardware
from dmeta.runtime.ray.actors import WorkerStatus
from dmeta.runtime.ray.calls import Actor, Ref, raise_cause
from dmeta.runtime.ray.node_names import whereabouts

_LOG = logging.getLogger(__name__)

START_TIMEOUT_S = 600.0
"""Seconds that workers may take to be placed and built before the run gives up."""

_PATIENCE, _PATIENCE_S = 3.0, 60.0  # with the last ones, once most are there


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

    def __init__(
        self,
        start: Callable[[int], Actor],
        factory: Ref,
        max_attempts: int,
        warn: Callable[[str], None] = _LOG.warning,
    ) -> None:
        """Nobody yet.

        Args:
            start: starts the one of a number.
            factory: of the work; each worker builds its own from it.
            max_attempts: replacements of one number, in a row, before it is given up.
            warn: called with what the run's results should mention.
        """
        self._warn = warn
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

    def wait_until_built(self, min_workers: int | None) -> list[tuple[News, WorkerStatus | None]]:
        """Wait for all workers, or for so many: who they are. The others join later.

        One node that hangs is not waited for: once most workers are there, the others have three
        times as long as those took, and a minute. One that fails is replaced, as later.

        Args:
            min_workers: to begin with; None: all, but any if the others do not come.

        Returns: what became of each that was heard of; who it is, if it was built.

        Raises:
            RuntimeError: fewer were there within `START_TIMEOUT_S`.
            Exception: what the factory raised on all that were started.
        """
        heard: list[tuple[News, WorkerStatus | None]] = []
        failed: list[tuple[int, RayError]] = []  # while none was built
        num_built, started, wait_s = 0, time.monotonic(), START_TIMEOUT_S
        while num_built < min(len(self._workers), min_workers or len(self._workers)):
            left_s = max(0.0, wait_s - (time.monotonic() - started))
            ready, _ = ray.wait(self.building, num_returns=1, timeout=left_s)
            if not ready:
                break
            heard += self._hear_first(ready[0], failed, are_others=num_built > 0)
            num_built = sum(status is not None for _, status in heard)
            if not num_built and not self.building:
                break
            if min_workers is None and 2 * num_built >= len(self._workers):
                wait_s = min(wait_s, _PATIENCE * (time.monotonic() - started) + _PATIENCE_S)
        if failed:
            self._raise_failure(failed)
        if num_built < (min_workers or 1):
            raise RuntimeError(
                f"{min_workers or 1} workers must start within {START_TIMEOUT_S:g} s, got "
                f"{num_built}{self._missing()}; lower runtime.num_workers or runtime.min_workers, "
                "or free CPUs and GPUs that other jobs hold on the cluster (`ray status` shows "
                "them)"
            )
        if min_workers is None and self._building:
            self._warn(
                f"the run begins with {num_built} workers{self._missing()}; these join later"
            )
        return heard

    def _hear_first(
        self, ref: Ref, failed: list[tuple[int, RayError]], *, are_others: bool
    ) -> list[tuple[News, WorkerStatus | None]]:
        """Who is there; or that a worker is replaced, once another shows that one can be built."""
        worker = self._building.pop(ref)
        try:
            status: Any = ray.get(ref)
        except RayError as error:
            failed.append((worker, error))
            heard: list[tuple[News, WorkerStatus | None]] = []
        else:
            heard, are_others = [(self._built(worker, status), status)], True
        while are_others and failed:
            heard.append((self._replace(*failed.pop()), None))
        return heard

    def _raise_failure(self, failed: Sequence[tuple[int, RayError]]) -> NoReturn:
        """All have failed: raise what the factory raised on one of them."""
        for _, error in failed:
            if isinstance(error, RayTaskError):
                raise_cause(error)
        raise RuntimeError(
            f"workers must start, got: {failed[0][1]}; see the logs of Ray on their nodes"
        ) from failed[0][1]

    def _missing(self) -> str:
        """Which workers are missing, and where they should be."""
        missing = sorted(self._building.values())
        return f" (missing: {whereabouts({n: self._workers[n] for n in missing})})"

    def hear(self, ref: Ref, *, others_do: bool) -> News:
        """A worker was built, or never will be: then another takes its place.

        Args:
            ref: of `building`, that is there.
            others_do: whether enough workers are there. If not, what the factory raises is raised:
                else that a new worker cannot be built, on a node that just joined, is no reason
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
