"""A Ray cluster for the workers of a run: joined or started, and left again.

Before there is a runtime, one worker can already be asked: the first of the run, which the runtime
then takes over. Knows no algorithm.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from dmeta.runtime.cluster import connect
from dmeta.runtime.messages import Seat
from dmeta.runtime.options import ComputeOptions, Device, RuntimeOptions
from dmeta.runtime.ray.actor_factory import worker_starter
from dmeta.runtime.ray.calls import Actor, Ref, is_from_the_work, raise_cause
from dmeta.runtime.ray.placement import Node, Placement, most_beside, place
from dmeta.runtime.ray.worker_registry import START_TIMEOUT_S

_ASK_EVERY_S = 5.0

_Answer = TypeVar("_Answer")


class RayWorkplace:
    """See `dmeta.runtime.protocol.Workplace`; a context manager.

    Attributes:
        cluster_s: seconds that joining or starting the cluster took.
    """

    def __init__(
        self,
        options: RuntimeOptions,
        device: Device,
        max_useful_workers: int,
        run_id: str,
        compute: ComputeOptions,
    ) -> None:
        """Join or start the cluster; see `dmeta.runtime.make_runtime`.

        Raises:
            ValueError: the workers cannot be placed there; nothing has been started then.
        """
        self._options, self._device, self._run_id = options, device, run_id
        self._threads = compute.threads_per_worker
        self._max_useful_workers = max_useful_workers
        self._first: tuple[Placement, Actor] | None = None
        if not connect.joins_existing(options.address):
            if options.autoscale:
                raise ValueError(
                    "runtime.autoscale=true must have a cluster with an autoscaler, got none to "
                    "join; name it by runtime.address, or leave runtime.autoscale out"
                )
            place(options, [connect.this_machine()], device, max_useful_workers)
        start = time.perf_counter()
        self._connected = connect.connect(
            options.address,
            allow_unauthenticated=options.allow_unauthenticated,
            dashboard=options.dashboard,
        )
        self.cluster_s = time.perf_counter() - start

    def placement(self) -> tuple[Placement, list[Node]]:
        """The workers to start now, and on what.

        Raises:
            ValueError: they cannot be placed.
        """
        nodes = connect.nodes_for_workers()
        return place(self._options, nodes, self._device, self._max_useful_workers), nodes

    def call(self, compute: Callable[[Seat], _Answer]) -> _Answer:
        """See `dmeta.runtime.protocol.Workplace.call`."""
        placement, nodes = self.placement()
        if self._first is None:
            start = worker_starter(placement, self._threads, self._run_id)
            self._first = (placement, start(0))
        _, worker = self._first
        num_workers = min(placement.num_workers, self._max_useful_workers)
        # The bundles of a placement group may be on one machine.
        together = num_workers if connect.is_in_group() else most_beside(nodes, placement)
        seat = Seat(num_workers, min(num_workers, together))
        started = worker.ready.remote()  # an actor answers in the order that it is asked in
        answer: _Answer = _answer(started, worker.call.remote(ray.put(compute), seat))
        return answer

    def starter(self, placement: Placement) -> Callable[[int], Actor]:
        """Starts the worker of a number; the first may be there already."""
        start = worker_starter(placement, self._threads, self._run_id)
        (placed, first), self._first = self._first or (None, None), None
        if first is not None and placed != placement:  # nodes have come or gone since
            ray.kill(first, no_restart=True)
            first = None
        waiting = [] if first is None else [first]
        return lambda number: waiting.pop() if waiting else start(number)

    def close(self) -> None:
        """Stop the worker that no runtime has taken over, and leave the cluster. Idempotent."""
        if ray.is_initialized():
            if self._first is not None:
                ray.kill(self._first[1], no_restart=True)
            if self._connected:
                connect.leave()
        self._first, self._connected = None, False

    def __enter__(self) -> RayWorkplace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answer(started: Ref, ref: Ref) -> Any:
    """Wait for a worker to start, then for its answer, however long that takes."""
    head, deadline = connect.watch_head(), time.monotonic() + START_TIMEOUT_S
    wait = functools.partial(_waited, head.check if head is not None else lambda: None)
    try:
        if not wait(started, deadline):
            raise RuntimeError(
                f"a worker must start within {START_TIMEOUT_S:g} s, got none; free CPUs and GPUs "
                "that other jobs hold on the cluster (`ray status` shows them)"
            )
        ray.get(started)
        wait(ref, None)
        return ray.get(ref)
    except RayError as error:
        if is_from_the_work(error):
            raise_cause(error)
        cause = str(error).strip().splitlines()[0]
        raise RuntimeError(
            "the worker that chooses compute.plan and compute.chunk_size must not die, got: "
            f"{cause}; set them, or give it more memory"
        ) from error
    finally:
        if head is not None:
            head.close()


def _waited(check: Callable[[], None], ref: Ref, deadline: float | None) -> bool:
    """Whether it is there before the deadline."""
    while deadline is None or time.monotonic() < deadline:
        check()
        ready, _ = ray.wait([ref], timeout=_ASK_EVERY_S)
        if ready:
            return True
    return False
