"""Starts the actors of a run, each with what it needs, where it belongs."""

from __future__ import annotations

from collections.abc import Callable

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmeta.runtime.actors import (
    AdderActor,
    ParameterServerActor,
    TaskWorkerActor,
    actor_label,
)
from dmeta.runtime.options import RuntimeOptions
from dmeta.runtime.placement import Placement
from dmeta.runtime.protocol import ServerFactory
from dmeta.runtime.remote import Actor


def worker_starter(
    placement: Placement, options: RuntimeOptions, run_id: str
) -> Callable[[int], Actor]:
    """Starts the worker of a number."""
    worker = ray.remote(TaskWorkerActor).options(
        num_cpus=placement.cpus_per_worker,
        num_gpus=placement.gpus_per_worker,
        max_restarts=-1,  # `max_attempts` is the limit
    )
    return lambda number: worker.remote(options.threads_per_worker, actor_label(run_id, number))


def server_starter(
    factory: ServerFactory, options: RuntimeOptions, run_id: str
) -> Callable[[], Actor]:
    """Starts the server."""
    # On the driver's node, where the snapshots of its state are. No CPU of its own: it works while
    # the workers wait, and must not take a worker's place.
    here = ray.get_runtime_context().get_node_id()
    server = ray.remote(ParameterServerActor).options(
        num_cpus=0,
        num_gpus=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
    )
    label = actor_label(run_id)
    return lambda: server.remote(factory, options.threads_per_worker, label)


def start_adder(node: str) -> Actor:
    """Starts an actor on a node, named as Ray does, that adds gradients."""
    on_it = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(AdderActor).options(num_cpus=0, scheduling_strategy=on_it).remote()
