"""Computes blocks on Ray actors: task workers, and one parameter server.

The driver holds references, never the vector or a gradient: the server returns its vector, the
workers take it from the object store and return gradients there, the server takes those. What a
lost worker means is decided in `dmeta.runtime.schedule`; this module carries it out.

Knows no algorithm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError
from ray.experimental import get_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmeta.runtime import cluster
from dmeta.runtime.actors import NotBuiltError, ParameterServerActor, TaskWorkerActor, WorkerStatus
from dmeta.runtime.options import Device, RuntimeOptions
from dmeta.runtime.placement import Placement, place
from dmeta.runtime.protocol import (
    Block,
    BlockReport,
    RuntimeInfo,
    ServerFactory,
    StepReport,
    WorkerFactory,
    num_tasks_of,
)
from dmeta.runtime.schedule import RoundFailed, Schedule

_LOG = logging.getLogger(__name__)

START_TIMEOUT_S = 600.0
"""Seconds that workers may take to be placed and built before the run gives up."""

_Ref = Any  # ray.ObjectRef; Ray has no types that mypy could use
_Actor = Any  # ray.actor.ActorHandle


class _Computed(NamedTuple):
    """A block's small result, and the reference of its gradient (None for an evaluation)."""

    report: BlockReport
    gradient: _Ref | None


class _Call(NamedTuple):
    """A block in flight on a worker."""

    worker: int
    block: int
    gradient: _Ref | None


_Submitted = tuple[_Ref | None, _Ref]
"""References of a block's gradient and of its report."""

_Submit = Callable[[_Actor, Block], _Submitted]


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
            RuntimeError: they could be, but were not started within `START_TIMEOUT_S`.
        """
        self._max_attempts = options.max_attempts
        self._workers: dict[int, _Actor] = {}
        self._probes: dict[_Ref, int] = {}  # lost workers, asked to build again: are you back?
        self._begun: dict[tuple[int, Block], _Submitted] = {}  # of the next step
        self._server: _Actor | None = None
        self._factory: _Ref | None = None
        self._vector: _Ref | None = None
        if not cluster.joins_existing(options.address):
            place(options, [cluster.this_machine()], device, max_useful_workers)
        start = time.perf_counter()
        self._connected = cluster.connect(options.address)
        cluster_s = time.perf_counter() - start
        try:
            nodes = cluster.nodes_for_workers()
            placement = place(options, nodes, device, max_useful_workers)
            start = time.perf_counter()
            self._start_actors(placement, worker_factory, server_factory, options)
            statuses = self._wait_for_workers()
        except BaseException:
            self.close()
            raise
        self._info = RuntimeInfo(
            "ray",
            len(self._workers),
            statuses[0].device,
            {
                "cluster_s": cluster_s,
                "workers_s": time.perf_counter() - start,
                "shared_bytes": float(_size_of(self._factory)),
                "worker_resident_bytes": float(max(s.resident_bytes for s in statuses)),
            },
        )

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
            RuntimeError: a block was lost `max_attempts` times, no worker is left, or the server
                died.
            Exception: what the work itself raised, with a note that names the block.
        """
        started = time.perf_counter()
        server = self._open_server()
        num_retries = 0
        for attempt in range(1, self._max_attempts + 1):
            computed, lost = self._round(blocks, self._submit_gradient)
            num_retries += lost
            reports = [result.report for result in computed]
            accepted = all(report.finite for report in reports)
            gradients = [result.gradient for result in computed] if accepted else []
            before = self._vector
            applied, self._vector = server.apply.remote(step, num_tasks_of(blocks), *gradients)
            self._begin(upcoming)
            try:
                report = ray.get(applied)
            except RayError as error:
                self._vector = before
                self._begun.clear()
                # A gradient went with its node after its report had come: the server has not run,
                # and would ignore a step that it had already applied.
                is_lost_gradient = isinstance(error, ObjectLostError)
                if not is_lost_gradient or attempt == self._max_attempts:
                    _raise_from_server(error, f"applying step {step}")
                _LOG.warning("a gradient of step %d was lost; computing the step again", step)
                num_retries += len(blocks)
                continue
            return StepReport(reports, report, num_retries, time.perf_counter() - started)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def evaluate(self, blocks: Sequence[Block]) -> Sequence[BlockReport]:
        """Evaluate every block on some worker; raises as `step` does."""
        self._open_server()
        computed, _ = self._round(blocks, self._submit_evaluation)
        return [result.report for result in computed]

    def save(self, directory: str, progress: Mapping[str, Any]) -> str:
        """`Server.save`, on the machine of the driver."""
        path: str = self._ask_server("saving", "save", directory, progress)
        return path

    def restore(self, checkpoint: str) -> None:
        """`Server.restore`."""
        self._begun.clear()
        self._ask_server("restoring", "restore", checkpoint)
        self._vector = self._open_server().vector.remote()

    def digest(self) -> str:
        """`Server.digest`."""
        digest: str = self._ask_server("taking the digest", "digest")
        return digest

    def close(self) -> None:
        """Kill our actors; stop or leave the cluster if we started or joined it. Idempotent."""
        actors = [*self._workers.values(), *([self._server] if self._server is not None else [])]
        self._workers, self._probes, self._server = {}, {}, None
        self._vector = self._factory = None
        self._begun.clear()
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

    def _start_actors(
        self,
        placement: Placement,
        worker_factory: WorkerFactory,
        server_factory: ServerFactory,
        options: RuntimeOptions,
    ) -> None:
        # On the driver's node, so that checkpoints are written where the user asked for them. No
        # CPU of its own: it works while the workers wait, and must not take a worker's place.
        here = ray.get_runtime_context().get_node_id()
        server: _Actor = ray.remote(ParameterServerActor).options(
            num_cpus=0,
            num_gpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        self._server = server.remote(server_factory, options.threads_per_worker)
        # One object for all workers: its arrays are shared memory on each node.
        self._factory = ray.put(worker_factory)
        worker = ray.remote(TaskWorkerActor).options(
            num_cpus=placement.cpus_per_worker,
            num_gpus=placement.gpus_per_worker,
            max_restarts=-1,  # `max_attempts` is the limit
        )
        self._workers = {
            number: worker.remote(options.threads_per_worker)
            for number in range(placement.num_workers)
        }
        self._vector = self._server.vector.remote()

    def _wait_for_workers(self) -> list[WorkerStatus]:
        refs = [worker.build.remote(self._factory) for worker in self._workers.values()]
        ready, waiting = ray.wait(refs, num_returns=len(refs), timeout=START_TIMEOUT_S)
        if waiting:
            raise RuntimeError(
                f"all {len(refs)} workers must start within {START_TIMEOUT_S:g} s, got "
                f"{len(ready)}; lower runtime.num_workers, or free CPUs and GPUs that other jobs "
                "hold on the cluster (`ray status` shows them)"
            )
        try:
            statuses: list[WorkerStatus] = ray.get(refs)
        except RayTaskError as error:
            _raise_cause(error)
        self._ask_server("starting", "digest")  # built: the first step need not wait for it
        return statuses

    def _round(self, blocks: Sequence[Block], submit: _Submit) -> tuple[list[_Computed], int]:
        """The results of the blocks in their order, and how many were computed again."""
        schedule = self._schedule(blocks)
        results: dict[int, _Computed] = {}
        calls: dict[_Ref, _Call] = {}
        try:
            while not schedule.finished:
                for worker, block in schedule.assign():
                    begun = self._begun.pop((worker, blocks[block]), None)
                    gradient, report_ref = begun or submit(self._workers[worker], blocks[block])
                    calls[report_ref] = _Call(worker, block, gradient)
                [ref], _ = ray.wait([*calls, *self._probes], num_returns=1)
                if ref in self._probes:
                    self._end_probe(schedule, ref)
                    continue
                call = calls.pop(ref)
                try:
                    report = ray.get(ref)
                except RayError as error:
                    self._lose(schedule, call, error)
                    continue
                if schedule.done(call.worker, call.block):
                    results[call.block] = _Computed(report, call.gradient)
        except RoundFailed as error:
            raise RuntimeError(f"{error}; blocks of this round: {_names(blocks)}") from None
        return [results[index] for index in range(len(blocks))], schedule.num_retries

    def _schedule(self, blocks: Sequence[Block]) -> Schedule:
        return Schedule(
            len(blocks),
            self._workers,
            max_attempts=self._max_attempts,
            restarting=self._probes.values(),
        )

    def _begin(self, blocks: Sequence[Block]) -> None:
        """Submit what the next step's schedule will submit first.

        What it then assigns otherwise, because a worker was lost, is submitted anew; the result of
        what was begun is dropped.
        """
        self._begun.clear()
        if blocks and self._workers:
            for worker, block in self._schedule(blocks).assign():
                submitted = self._submit_gradient(self._workers[worker], blocks[block])
                self._begun[worker, blocks[block]] = submitted

    def _lose(self, schedule: Schedule, call: _Call, error: RayError) -> None:
        """Hand a lost block back; the work's own exceptions are raised instead."""
        if isinstance(error, RayTaskError) and _is_from_the_work(error):
            _raise_cause(error)
        cause = str(error).strip().splitlines()[0]
        _LOG.warning(
            "worker %d lost its block (%s: %s); the block is computed again",
            call.worker,
            type(error).__name__,
            cause,
        )
        if schedule.lost(call.worker, call.block, f"{type(error).__name__}: {cause}"):
            probe = self._workers[call.worker].build.remote(self._factory)
            self._probes[probe] = call.worker

    def _end_probe(self, schedule: Schedule, ref: _Ref) -> None:
        """A lost worker answered, or never will."""
        worker = self._probes.pop(ref)
        try:
            ray.get(ref)
        except RayTaskError as error:
            _raise_cause(error)  # it could not be built again
        except RayError as error:
            _LOG.warning("worker %d is gone for good: %s", worker, error)
            del self._workers[worker]
            schedule.gone(worker)
        else:
            schedule.back(worker)

    def _submit_gradient(self, worker: _Actor, block: Block) -> _Submitted:
        gradient, report = worker.gradient.remote(self._vector, block)
        return gradient, report

    def _submit_evaluation(self, worker: _Actor, block: Block) -> _Submitted:
        return None, worker.evaluate.remote(self._vector, block)

    def _open_server(self) -> _Actor:
        if self._server is None:
            raise RuntimeError("the runtime must be open, got a closed one; make a new one")
        return self._server

    def _ask_server(self, doing: str, method: str, *arguments: object) -> Any:
        server = self._open_server()
        try:
            return ray.get(getattr(server, method).remote(*arguments))
        except RayError as error:
            _raise_from_server(error, doing)


def _is_from_the_work(error: RayError) -> bool:
    """Whether the remote code raised it; else a process, or an object it needed, was lost."""
    if not isinstance(error, RayTaskError) or isinstance(error.cause, NotBuiltError):
        return False
    # A plain RayError stands for an exception of the work that does not pickle.
    return not isinstance(error.cause, RayError) or type(error.cause) is RayError


def _raise_cause(error: RayTaskError) -> NoReturn:
    """Raise what the remote code raised; its remote traceback stays in the chain."""
    raise error.cause from error


def _raise_from_server(error: RayError, doing: str) -> NoReturn:
    if isinstance(error, RayTaskError) and _is_from_the_work(error):
        _raise_cause(error)
    raise RuntimeError(
        f"the parameter server must answer, got {type(error).__name__} while {doing}; "
        "resume from the last checkpoint"
    ) from error


def _size_of(ref: _Ref) -> int:
    """Bytes of an object in the object store (0 if Ray does not know)."""
    location = get_object_locations([ref]).get(ref, {})
    return int(location.get("object_size") or 0)


def _names(blocks: Sequence[Block]) -> str:
    first, last = blocks[0], blocks[-1]
    return f"{first.phase} step {first.step}, {first.index} to {last.index}"
