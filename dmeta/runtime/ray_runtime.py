"""Computes blocks on Ray actors: task workers, and one parameter server.

The driver holds references, never the vector or a gradient: the server returns its vector, the
workers take it from the object store and return gradients there, the server takes those. The
workers are in `dmeta.runtime.crew`, the server is in `dmeta.runtime.server_host`; here they meet.

Knows no algorithm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

import ray
from ray.experimental import get_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmeta.runtime import cluster
from dmeta.runtime.actors import ParameterServerActor, TaskWorkerActor
from dmeta.runtime.crew import Batch, Computed, Crew
from dmeta.runtime.head import HeadWatch
from dmeta.runtime.options import Device, RuntimeOptions
from dmeta.runtime.placement import Placement, place
from dmeta.runtime.protocol import (
    ApplyReport,
    Block,
    BlockReport,
    RuntimeInfo,
    ServerFactory,
    ServerState,
    StepReport,
    WorkerFactory,
)
from dmeta.runtime.remote import Actor, Ref
from dmeta.runtime.server_host import ArgumentLostError, ServerHost, ServerLostError

_LOG = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class RayRuntime:
    """Workers and server as Ray actors (see `dmeta.runtime.protocol.Runtime`)."""

    def __init__(
        self,
        options: RuntimeOptions,
        worker_factory: WorkerFactory,
        server_factory: ServerFactory,
        device: Device,
        max_useful_workers: int,
    ) -> None:
        """Join or start a cluster, start the actors and wait until each is built.

        Raises:
            ValueError: the workers cannot be placed; nothing has been started then.
            RuntimeError: they could be, but were not started in time.
        """
        self._options = options
        self._crew: Crew | None = None
        self._host: ServerHost | None = None
        self._head: HeadWatch | None = None
        self._vector: Ref | None = None
        self._begun: Batch | None = None  # the next step's blocks
        self._num_recomputed = 0  # blocks, because gradients or the server were lost
        if not cluster.joins_existing(options.address):
            place(options, [cluster.this_machine()], device, max_useful_workers)
        start = time.perf_counter()
        self._connected = cluster.connect(
            options.address,
            allow_unauthenticated=options.allow_unauthenticated,
            dashboard=options.dashboard,
        )
        cluster_s = time.perf_counter() - start
        try:
            nodes = cluster.nodes_for_workers()
            placement = place(options, nodes, device, max_useful_workers)
            self._info = self._start(placement, worker_factory, server_factory, cluster_s)
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> RuntimeInfo:
        """Who computes."""
        return self._info

    def step(
        self, step: int, blocks: Sequence[Block], upcoming: Sequence[Block] = ()
    ) -> StepReport:
        """Compute every block on some worker, then let the server take the outer step.

        The workers are told of their first blocks of the next step while the server is at work:
        they begin as soon as its vector is there, without waiting for the driver.

        Raises:
            RuntimeError: a block, or the server, was lost `max_attempts` times, or no worker is
                left.
            Exception: what the work itself raised, with a note that names the block.
        """
        started = time.perf_counter()
        crew, _ = self._parts()
        before = crew.num_retries + self._num_recomputed, crew.num_copies
        computed, applied = self._take(step, blocks, upcoming)
        return StepReport(
            [result.report for result in computed],
            applied,
            crew.num_retries + self._num_recomputed - before[0],
            crew.num_copies - before[1],
            time.perf_counter() - started,
        )

    def evaluate(self, blocks: Sequence[Block]) -> Sequence[BlockReport]:
        """Evaluate every block on some worker; raises as `step` does."""
        crew, _ = self._parts()
        try:
            return [result.report for result in crew.compute(crew.want(blocks, self._vector))]
        except BaseException:
            self._begun = None  # is forgotten with the rest
            raise

    def state(self) -> Callable[[], ServerState]:
        """See `dmeta.runtime.protocol.Runtime.state`."""
        return self._parts()[1].state()

    def load(self, state: ServerState) -> None:
        """`Server.load`."""
        self._forget()
        self._ask(lambda host: host.load(state))
        self._vector = self._ask(lambda host: host.vector())

    def digest(self) -> str:
        """`Server.digest`."""
        return self._ask(lambda host: host.digest())

    def close(self) -> None:
        """Kill our actors; stop or leave the cluster if we started or joined it. Idempotent."""
        actors = [] if self._crew is None else self._crew.actors()
        if self._host is not None and (server := self._host.close()) is not None:
            actors.append(server)
        if self._head is not None:
            self._head.close()
        self._crew = self._host = self._head = self._vector = self._begun = None
        if ray.is_initialized():
            for actor in actors:
                ray.kill(actor, no_restart=True)
            if self._connected:
                ray.shutdown()
        self._connected = False

    def __enter__(self) -> RayRuntime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(
        self,
        placement: Placement,
        worker_factory: WorkerFactory,
        server_factory: ServerFactory,
        cluster_s: float,
    ) -> RuntimeInfo:
        """Start the actors, and wait until they are built."""
        options, start = self._options, time.perf_counter()
        factory = ray.put(worker_factory)  # one object: its arrays are shared on each node
        self._host = ServerHost(_server_starter(server_factory, options), options)
        self._head = cluster.watch_head()
        check = self._head.check if self._head is not None else lambda: None
        starter = _worker_starter(placement, options)
        self._crew = Crew(starter, factory, placement.num_workers, options, check)
        statuses = self._crew.wait_until_built()
        self._vector = self._host.vector()
        start_up = {
            "cluster_s": cluster_s,
            "workers_s": time.perf_counter() - start,
            "shared_bytes": float(_size_of(factory)),
            "worker_resident_bytes": float(max(s.resident_bytes for s in statuses)),
        }
        return RuntimeInfo("ray", placement.num_workers, statuses[0].device, start_up)

    def _take(
        self, step: int, blocks: Sequence[Block], upcoming: Sequence[Block] = ()
    ) -> tuple[list[Computed], ApplyReport]:
        """Take one step, whatever is lost on the way."""
        crew, _ = self._parts()
        num_attempts = 0
        computed: list[Computed] | None = None
        while True:
            try:
                if computed is None:
                    num_attempts += 1
                    computed = crew.compute(self._wanted(blocks))
                return computed, self._apply(step, blocks, computed, upcoming)
            except ArgumentLostError as error:
                if num_attempts == self._options.max_attempts:
                    raise RuntimeError(
                        f"step {step} must get its gradients, lost some {num_attempts} times "
                        f"(runtime.max_attempts): {error}; resume from the last checkpoint"
                    ) from error
                _LOG.warning("a gradient of step %d was lost; computing the step again", step)
                self._forget()
                computed = None
                self._num_recomputed += len(blocks)
            except ServerLostError as error:
                self._recover(error)  # and then apply the same gradients again

    def _apply(
        self,
        step: int,
        blocks: Sequence[Block],
        computed: Sequence[Computed],
        upcoming: Sequence[Block],
    ) -> ApplyReport:
        crew, host = self._parts()
        accepted = all(result.report.finite for result in computed)
        gradients = [result.gradient for result in computed] if accepted else []
        before = self._vector
        applied = host.begin_apply(step, blocks, gradients)
        self._vector = applied.vector
        self._begun = crew.want(upcoming, self._vector) if upcoming else None
        try:
            return host.end_apply(applied)
        except BaseException:
            self._vector = before
            raise

    def _wanted(self, blocks: Sequence[Block]) -> Batch:
        """What was begun of the blocks, or all of them from the beginning."""
        begun, self._begun = self._begun, None
        if begun is not None and list(begun.blocks) == list(blocks):
            return begun
        crew, _ = self._parts()
        if begun is not None:
            crew.forget()
        return crew.want(blocks, self._vector)

    def _recover(self, lost: ServerLostError) -> None:
        """Make the server what it was: from its last snapshot, by the steps taken since."""
        _, host = self._parts()
        self._forget()
        while True:
            try:
                self._vector, entries = host.restart(lost)
                break
            except ServerLostError as error:
                lost = error
        for entry in entries:  # lost again, the server is first brought to where it was
            self._take(entry.step, entry.blocks)
            self._num_recomputed += len(entry.blocks)

    def _ask(self, question: Callable[[ServerHost], _Answer]) -> _Answer:
        while True:
            try:
                return question(self._parts()[1])
            except ServerLostError as error:
                self._recover(error)

    def _forget(self) -> None:
        self._begun = None
        self._parts()[0].forget()

    def _parts(self) -> tuple[Crew, ServerHost]:
        if self._crew is None or self._host is None:
            raise RuntimeError("the runtime must be open, got a closed one; make a new one")
        return self._crew, self._host


def _worker_starter(placement: Placement, options: RuntimeOptions) -> Callable[[], Actor]:
    worker = ray.remote(TaskWorkerActor).options(
        num_cpus=placement.cpus_per_worker,
        num_gpus=placement.gpus_per_worker,
        max_restarts=-1,  # `max_attempts` is the limit
    )
    return lambda: worker.remote(options.threads_per_worker)


def _server_starter(factory: ServerFactory, options: RuntimeOptions) -> Callable[[], Actor]:
    # On the driver's node, where the snapshots of its state are. No CPU of its own: it works while
    # the workers wait, and must not take a worker's place.
    here = ray.get_runtime_context().get_node_id()
    server = ray.remote(ParameterServerActor).options(
        num_cpus=0,
        num_gpus=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
    )
    return lambda: server.remote(factory, options.threads_per_worker)


def _size_of(ref: Ref) -> int:
    """Bytes of an object in the object store (0 if Ray does not know)."""
    location = get_object_locations([ref]).get(ref, {})
    return int(location.get("object_size") or 0)
