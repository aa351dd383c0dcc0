"""How many workers fit where. Pure arithmetic on counts of CPUs and GPUs: no Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dmeta.runtime.options import Device, RuntimeOptions

_ROUNDING = 1e-6  # Ray counts in steps of 1e-4; 1 / 0.1 must be 10 workers, not 9.


class Node(NamedTuple):
    """CPUs and GPUs (counts) that workers may take on one machine."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Placement:
    """What is reserved: `num_workers` processes with so many CPUs and GPUs each."""

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float


def place(
    options: RuntimeOptions, nodes: Sequence[Node], device: Device, max_useful_workers: int
) -> Placement:
    """The workers to start on `nodes`.

    Args:
        options: what was asked for.
        nodes: what there is.
        device: the device of the run.
        max_useful_workers: blocks per step: ``auto`` starts no more workers than that.
    Raises: ValueError: the workers (or ``min_workers`` of them, if that is set) do not fit and no
        autoscaler is to make room for them, or the device and GPUs contradict each other.
    """
    gpus = _gpus_per_worker(options, nodes, device)
    if options.autoscale:
        count = max_useful_workers if options.num_workers == "auto" else options.num_workers
        return Placement(count, options.cpus_per_worker, gpus)
    fit = num_that_fit(nodes, options.cpus_per_worker, gpus)
    needed = options.min_workers or 1
    if options.num_workers == "auto":
        if fit < needed:
            raise _does_not_fit(options, nodes, needed, gpus, fit)
        return Placement(max(1, min(fit, max_useful_workers)), options.cpus_per_worker, gpus)
    if fit < (options.min_workers or options.num_workers):
        raise _does_not_fit(options, nodes, options.num_workers, gpus, fit)
    return Placement(options.num_workers, options.cpus_per_worker, gpus)


def _gpus_per_worker(options: RuntimeOptions, nodes: Sequence[Node], device: Device) -> float:
    total = sum(node.gpus for node in nodes)
    if options.gpus_per_worker == "auto":
        are_to_come = options.autoscale and device == "cuda"
        gpus = 1.0 if are_to_come or (total > 0 and device != "cpu") else 0.0
    else:
        gpus = options.gpus_per_worker
    if device == "cuda" and gpus == 0:
        raise ValueError(
            f"device=cuda needs runtime.gpus_per_worker > 0 on a cluster with GPUs, got "
            f"runtime.gpus_per_worker={options.gpus_per_worker} and {total:g} GPUs; "
            "set device=cpu or change runtime.gpus_per_worker"
        )
    if device == "cpu" and gpus > 0:
        raise ValueError(
            f"runtime.gpus_per_worker must be 0 or auto with device=cpu, got {gpus:g}; "
            "set device=auto or runtime.gpus_per_worker=0"
        )
    return gpus


def num_that_fit(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    """How many workers, of so many CPUs and GPUs each, there is room for on `nodes`."""
    return sum(_num_on(node, cpus, gpus) for node in nodes)


def most_beside(nodes: Sequence[Node], placement: Placement) -> int:
    """How many workers may be on one node: all, where it is not known."""
    sizes = [_num_on(n, placement.cpus_per_worker, placement.gpus_per_worker) for n in nodes]
    return max(1, *sizes) if sizes else placement.num_workers


def _num_on(node: Node, cpus: float, gpus: float) -> int:
    fit = math.floor(node.cpus / cpus + _ROUNDING)
    if gpus == 0:
        return fit
    # A share is of one GPU: 3 x 0.4 of 1.2 GPUs does not exist.
    return min(fit, math.floor(node.gpus) * math.floor(1 / gpus + _ROUNDING))


def _does_not_fit(
    options: RuntimeOptions, nodes: Sequence[Node], wanted: int, gpus: float, fit: int
) -> ValueError:
    total_cpus = sum(node.cpus for node in nodes)
    total_gpus = sum(node.gpus for node in nodes)
    cpus_fit = num_that_fit(nodes, options.cpus_per_worker, 0)
    kind, total, each = (
        ("cpus", total_cpus, options.cpus_per_worker)
        if cpus_fit < wanted
        else ("gpus", total_gpus, gpus)
    )
    where = "" if len(nodes) == 1 else f" ({fit} fit, each on one of its {len(nodes)} nodes)"
    return ValueError(
        f"runtime.num_workers * runtime.{kind}_per_worker must fit the cluster's {total:g} "
        f"{kind[:-1].upper()}s{where}, got {wanted} x {each:g}; "
        f"lower runtime.num_workers or runtime.{kind}_per_worker"
    )
