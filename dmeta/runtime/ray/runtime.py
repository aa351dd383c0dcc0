"""Computes blocks on Ray actors: task workers, and one parameter server.

Starts and stops the actors in a cluster that `dmeta.runtime.ray.cluster_session` has joined;
`dmeta.runtime.ray.coordinator` is what they do in between. Knows no algorithm.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import ray
from ray.experimental import get_object_locations

from dmeta.runtime.cluster import connect
from dmeta.runtime.messages import (
    Block,
    BlockReport,
    RuntimeInfo,
    ServerState,
    StepReport,
)
from dmeta.runtime.options import ComputeOptions, Device, RuntimeOptions
from dmeta.runtime.protocol import ServerFactory, WorkerFactory
from dmeta.runtime.ray.actor_factory import ServerStarter, start_adder
from dmeta.runtime.ray.calls import Ref
from dmeta.runtime.ray.cluster_session import RayWorkplace
from dmeta.runtime.ray.coordinator import Team
from dmeta.runtime.ray.free_capacity import Room
from dmeta.runtime.ray.gather import parts_of
from dmeta.runtime.ray.head_monitor import HeadWatch
from dmeta.runtime.ray.placement import Node, Placement, num_that_fit, place
from dmeta.runtime.ray.server_client import ServerHost
from dmeta.runtime.ray.worker_pool import Crew

_DEFAULT = ComputeOptions()


class RayRuntime:
    """Workers and server as Ray actors (see `dmeta.runtime.protocol.Runtime`)."""

    def __init__(
        self,
        options: RuntimeOptions,
        worker_factory: WorkerFactory,
        server_factory: ServerFactory,
        device: Device,
        max_useful_workers: int,
        run_id: str = "run",
        workplace: RayWorkplace | None = None,
        compute: ComputeOptions = _DEFAULT,
    ) -> None:
        """Start the actors and wait until each is built.

        See `dmeta.runtime.make_runtime`.

        Args:
            options: of the run.
            worker_factory: of the workers.
            server_factory: of the server.
            device: where workers compute.
            max_useful_workers: blocks of a step.
            run_id: of the run.
            workplace: of these options, open until the runtime is closed; None: one of its own.
            compute: how blocks are computed.

        Raises:
            ValueError: the workers cannot be placed; nothing has been started then.
            RuntimeError: they could be, but were not started in time.
        """
        self._options, self._compute, self._run_id = options, compute, run_id
        self._team: Team | None = None
        self._head: HeadWatch | None = None
        self._room: Room | None = None
        self._own_place: RayWorkplace | None = None
        if workplace is None:
            workplace = RayWorkplace(options, device, max_useful_workers, run_id, compute)
            self._own_place = workplace
        try:
            placement, nodes = workplace.placement()
            self._info = self._start(
                placement, workplace, worker_factory, server_factory, max_useful_workers, nodes
            )
            if options.num_workers == "auto" and not connect.is_in_group():
                asked = dataclasses.replace(options, gpus_per_worker=placement.gpus_per_worker)
                look = functools.partial(_room, asked, device, max_useful_workers)
                self._room = Room(look, placement.num_workers)
                self._open().room = self._room
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> RuntimeInfo:
        """Who computes; of a closed runtime, as it was when it was last asked."""
        if self._team is not None:
            crew = self._team.crew
            self._info = dataclasses.replace(
                self._info, hardware=crew.hardware, warnings=crew.warnings.texts
            )
        return self._info

    def step(
        self, step: int, blocks: Sequence[Block], upcoming: Sequence[Block] = ()
    ) -> StepReport:
        """Take an outer step; see `Team.step`."""
        return self._open().step(step, blocks, upcoming)

    def evaluate(self, blocks: Sequence[Block]) -> Sequence[BlockReport]:
        """Evaluate every block on some worker; raises as `step` does."""
        return self._open().evaluate(blocks)

    def state(self) -> Callable[[], ServerState]:
        """See `dmeta.runtime.protocol.Runtime.state`."""
        return self._open().state()

    def load(self, state: ServerState) -> None:
        """See `dmeta.runtime.protocol.Runtime.load`."""
        self._open().load(state)

    def digest(self) -> str:
        """SHA-256 (hex) of the current meta-parameters."""
        return self._open().digest()

    def close(self) -> None:
        """Kill our actors; leave the workplace if it is our own. Idempotent."""
        actors = [] if self._team is None else self._team.actors()
        for watch in (self._head, self._room):
            if watch is not None:
                watch.close()
        self._team = self._head = self._room = None
        if ray.is_initialized():
            for actor in actors:
                ray.kill(actor, no_restart=True)
        if self._own_place is not None:
            self._own_place.close()

    def __enter__(self) -> RayRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(
        self,
        placement: Placement,
        workplace: RayWorkplace,
        worker_factory: WorkerFactory,
        server_factory: ServerFactory,
        num_blocks: int,
        nodes: Sequence[Node],
    ) -> RuntimeInfo:
        """Start the actors, and wait until they are built."""
        options, start = self._options, time.perf_counter()
        factory = ray.put(worker_factory)  # one object: its arrays are shared on each node
        num_parts = parts_of(len(nodes)) if options.reduce == "sharded" else 1
        threads = self._compute.threads_per_worker
        starter = ServerStarter(server_factory, threads, self._run_id, num_parts)
        host = ServerHost(server_factory, starter, options)
        self._head = connect.watch_head()
        check = self._head.check if self._head is not None else lambda: None
        crew = Crew(workplace.starter(placement), factory, placement.num_workers, options, check)
        self._team = Team(
            crew, host, options, start_adder, num_blocks, self._compute.gradient_precision
        )
        statuses = self._team.begin()
        start_up = {
            "cluster_s": workplace.cluster_s,
            "workers_s": time.perf_counter() - start,
            "shared_bytes": float(_size_of(factory)),
            "worker_resident_bytes": float(max(s.resident_bytes for s in statuses)),
        }
        room = num_that_fit(nodes, placement.cpus_per_worker, placement.gpus_per_worker)
        device = statuses[0].device
        return RuntimeInfo("ray", placement.num_workers, device, start_up, room)

    def _open(self) -> Team:
        if self._team is None:
            raise RuntimeError("the runtime must be open, got a closed one; make a new one")
        return self._team


def _room(options: RuntimeOptions, device: Device, max_useful_workers: int) -> int:
    """How many workers the cluster could have now."""
    try:
        return place(options, connect.nodes_for_workers(), device, max_useful_workers).num_workers
    except ValueError:  # none, at the moment
        return 0


def _size_of(ref: Ref) -> int:
    """Bytes of an object in the object store (0 if Ray does not know)."""
    location = get_object_locations([ref]).get(ref, {})
    return int(location.get("object_size") or 0)
