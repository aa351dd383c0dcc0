"""Who computes the blocks of a step: this process, or Ray actors. Knows no algorithm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dmeta.runtime.options import ComputeOptions, Device, RuntimeOptions
from dmeta.runtime.protocol import (
    Runtime,
    ServerFactory,
    WorkerFactory,
    Workplace,
)

__all__ = [
    "ComputeOptions",
    "Device",
    "Runtime",
    "RuntimeOptions",
    "check_room",
    "make_runtime",
    "open_workplace",
]

_DEFAULT = ComputeOptions()


@contextlib.contextmanager
def open_workplace(
    options: RuntimeOptions,
    device: Device,
    max_useful_workers: int,
    run_id: str = "run",
    compute: ComputeOptions = _DEFAULT,
) -> Iterator[Workplace]:
    """Be where the runtime that `options` ask for will compute: for `make_runtime`, and before.

    See `make_runtime` for arguments and errors.
    """
    if options.name == "local":
        from dmeta.runtime.local import LocalWorkplace

        yield LocalWorkplace(device, compute.threads_per_worker)
        return
    from dmeta.runtime.ray.cluster_session import RayWorkplace

    with RayWorkplace(options, device, max_useful_workers, run_id, compute) as workplace:
        yield workplace


def check_room(options: RuntimeOptions, device: Device, max_useful_workers: int) -> None:
    """Check that this machine has the workers that are asked for; starts nothing.

    Of a cluster that is to be joined nothing is known yet.

    Args:
        options: the `runtime` config group.
        device: where workers compute.
        max_useful_workers: blocks per step.

    Raises:
        ValueError: the machine lacks a GPU or CPUs.
    """
    if options.name == "local":
        from dmeta.runtime.local import local_device

        local_device(device)
        return
    from dmeta.runtime.cluster import connect
    from dmeta.runtime.ray.placement import place

    if not connect.joins_existing(options.address):
        place(options, [connect.this_machine()], device, max_useful_workers)


def make_runtime(
    options: RuntimeOptions,
    worker_factory: WorkerFactory,
    server_factory: ServerFactory,
    device: Device,
    max_useful_workers: int,
    run_id: str = "run",
    workplace: Workplace | None = None,
    compute: ComputeOptions = _DEFAULT,
) -> Runtime:
    """Start the runtime that `options` ask for; close it after use (it is a context manager).

    Args:
        options: the `runtime` config group.
        worker_factory: becomes a worker in each worker process.
        server_factory: becomes the one parameter server.
        device: where workers compute; the server computes on CPU under Ray.
        max_useful_workers: blocks per step: ``num_workers=auto`` starts no more than that.
        run_id: names the run's actors to people.
        workplace: that of `open_workplace` with the same arguments; None: the runtime's own.
        compute: the `compute` config group.
    Raises: ValueError: the options do not fit the machine or cluster; nothing was started.
    """
    if options.name == "local":
        from dmeta.runtime.local import LocalRuntime

        return LocalRuntime(worker_factory, server_factory, device, compute.threads_per_worker)
    # Ray costs half a second to import, and a local run must work where it is broken.
    from dmeta.runtime.ray.cluster_session import RayWorkplace
    from dmeta.runtime.ray.runtime import RayRuntime

    assert workplace is None or isinstance(workplace, RayWorkplace)
    return RayRuntime(
        options,
        worker_factory,
        server_factory,
        device,
        max_useful_workers,
        run_id,
        workplace,
        compute,
    )
