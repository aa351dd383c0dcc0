"""What a trial reserves: its driver, its parameter server and its workers, all or nothing.

They are one placement group. So a trial that runs has all that it will start, and cannot wait for
what another one holds. Pure arithmetic: knows no Ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dmeta.runtime.ray.placement import Node, Placement, place
from dmeta.training.config import RunConfig

Bundle = dict[str, float]

_DRIVER_BYTES = 400 * 2**20  # of a trial's driver and its server: two processes with torch


def reservation(config: RunConfig, cpus_per_driver: float, nodes: Sequence[Node]) -> list[Bundle]:
    """The bundles of a trial's placement group: that of its driver, then one for each worker.

    Args:
        config: settings of the trial.
        cpus_per_driver: reserved for driver and server, where there are workers besides.
        nodes: of the cluster, empty.

    Raises:
        ValueError: the cluster cannot place it, even when nothing else runs on it.
    """
    options = config.runtime
    if options.name == "local":
        options = dataclasses.replace(options, num_workers=1, min_workers=None)
        return [_worker(place(options, nodes, config.device, config.num_blocks))]
    driver = {"memory": float(_DRIVER_BYTES)}
    if cpus_per_driver:
        driver["CPU"] = cpus_per_driver
    placement = _beside_driver(config, cpus_per_driver, nodes)
    return [driver, *([_worker(placement)] * placement.num_workers)]


def _worker(placement: Placement) -> Bundle:
    bundle = {"CPU": float(placement.cpus_per_worker)}
    if placement.gpus_per_worker:
        bundle["GPU"] = float(placement.gpus_per_worker)
    return bundle


def _beside_driver(config: RunConfig, cpus: float, nodes: Sequence[Node]) -> Placement:
    """The workers that fit in addition to the driver, on whichever node that is."""
    found: list[Placement] = []
    refusal: ValueError | None = None
    for at, node in enumerate(nodes):
        if node.cpus < cpus:
            continue
        rest = [*nodes[:at], Node(node.cpus - cpus, node.gpus), *nodes[at + 1 :]]
        try:
            found.append(place(config.runtime, rest, config.device, config.num_blocks))
        except ValueError as error:
            refusal = error
    if found:
        return max(found, key=lambda placement: placement.num_workers)
    if cpus and refusal is not None:
        raise ValueError(f"{refusal} or search.cpus_per_driver ({cpus:g} of them)") from None
    raise refusal or ValueError(
        f"search.cpus_per_driver must fit a node of the cluster, got {cpus:g}; lower it"
    )
