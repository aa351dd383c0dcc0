"""Starts the actors of a run, each with what it needs, where it belongs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmeta.runtime.protocol import ServerFactory
from dmeta.runtime.ray.actors import (
    AdderActor,
    KeeperActor,
    ParameterServerActor,
    TaskWorkerActor,
    actor_label,
)
from dmeta.runtime.ray.calls import Actor, Ref
from dmeta.runtime.ray.placement import Placement


def worker_starter(placement: Placement, threads: int, run_id: str) -> Callable[[int], Actor]:
    """Starts the worker of a number, each with so many CPU threads."""
    worker = ray.remote(TaskWorkerActor).options(
        num_cpus=placement.cpus_per_worker,
        num_gpus=placement.gpus_per_worker,
        max_restarts=-1,  # `max_attempts` is the limit
    )
    return lambda number: worker.remote(
        threads,
        actor_label(run_id, f"worker-{number}"),
        placement.gpus_per_worker,
    )


class ServerStarter:
    """Starts the server, and keeps what its actors say of their states.

    One actor is on the driver's node, and so is what it says; several are spread over the nodes,
    and what they say is copied to the driver's: a lost node takes a part, not its state.
    """

    def __init__(self, factory: ServerFactory, threads: int, run_id: str, num_parts: int) -> None:
        """Start nothing yet.

        Args:
            factory: of the whole server.
            threads: CPU threads of torch in each actor.
            run_id: of the run.
            num_parts: among how many actors the vector is divided; fewer if it is short.
        """
        self._parts = factory.parts(num_parts)
        self._threads, self._run_id = threads, run_id
        self._keepers: list[Actor] = []
        if len(self._parts) > 1:
            keeper = ray.remote(KeeperActor).options(
                num_cpus=0, scheduling_strategy=_here(), max_restarts=-1, max_task_retries=-1
            )
            self._keepers.append(keeper.remote())

    def start(self) -> list[Actor]:
        """The actors, in the order of their parts."""
        # No CPU of their own: they work while the workers wait, and must not take a worker's place.
        server = ray.remote(ParameterServerActor)
        places = itertools.cycle(_places() if len(self._parts) > 1 else [_here()])
        label = actor_label(self._run_id, "server")
        return [
            server.options(num_cpus=0, num_gpus=0, scheduling_strategy=place).remote(
                part, self._threads, label
            )
            for part, place in zip(self._parts, places, strict=False)
        ]

    def kept(self, state: Ref) -> Ref:
        """A state that an actor returns, where it outlives the actor's node."""
        for keeper in self._keepers:
            state = keeper.keep.remote(state)
        return state

    def others(self) -> list[Actor]:
        """Actors besides those of the server, to be killed at the end."""
        return self._keepers


def start_adder(node: str) -> Actor:
    """Starts an actor on a node, named as Ray does, that adds gradients."""
    on_it = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(AdderActor).options(num_cpus=0, scheduling_strategy=on_it).remote()


def _here() -> NodeAffinitySchedulingStrategy:
    """The driver's node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _places() -> list[NodeAffinitySchedulingStrategy]:
    """The cluster's nodes."""
    alive = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    return [NodeAffinitySchedulingStrategy(node, soft=True) for node in alive]
