"""What a trial reserves: its driver, its parameter server and its workers, all or nothing.

They are one placement group. So a trial that runs has all that it will start, and can not wait for
what another one holds. Pure arithmetic: knows no Ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dmeta.runtime.placement import Node, Placement, place
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
        ValueError: the cluster can not place it, even when nothing else runs on it.
    """
    options = config.runtime
    if options.name == "local":
        options = dataclasses.replace(options, num_workers=1, min_workers=None)
    placement = place(options, nodes, config.device, config.num_blocks)
    worker = {"CPU": float(placement.cpus_per_worker)}
    if placement.gpus_per_worker:
        worker["GPU"] = float(placement.gpus_per_worker)
    if options.name == "local":
        return [worker]
    driver = {"memory": float(_DRIVER_BYTES)}
    if cpus_per_driver:
        driver["CPU"] = cpus_per_driver
        _check_driver(placement, cpus_per_driver, nodes)
    return [driver, *([worker] * placement.num_workers)]


def _check_driver(placement: Placement, cpus: float, nodes: Sequence[Node]) -> None:
    total = sum(node.cpus for node in nodes)
    needed = placement.num_workers * placement.cpus_per_worker + cpus
    if needed > total or cpus > max(node.cpus for node in nodes):
        raise ValueError(
            "a trial's workers and search.cpus_per_driver must fit the cluster's "
            f"{total:g} CPUs, got {placement.num_workers} x {placement.cpus_per_worker:g} + "
            f"{cpus:g}; lower runtime.num_workers or search.cpus_per_driver"
        )
