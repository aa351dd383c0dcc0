"""Who computes the blocks of a step: this process, or Ray actors. Knows no algorithm."""

from __future__ import annotations

from dmeta.runtime.options import Device, RuntimeOptions
from dmeta.runtime.protocol import Runtime, ServerFactory, WorkerFactory

__all__ = ["Device", "Runtime", "RuntimeOptions", "make_runtime"]


def make_runtime(
    options: RuntimeOptions,
    worker_factory: WorkerFactory,
    server_factory: ServerFactory,
    device: Device,
    max_useful_workers: int,
    run_id: str = "run",
) -> Runtime:
    """Start the runtime that `options` ask for; close it after use (it is a context manager).

    Args:
        options: the `runtime` config group.
        worker_factory: becomes a worker in each worker process.
        server_factory: becomes the one parameter server.
        device: where workers compute; the server computes on CPU under Ray.
        max_useful_workers: blocks per step: ``num_workers=auto`` starts no more than that.
        run_id: names the run's actors to people.
    Raises: ValueError: the options do not fit the machine or cluster; nothing was started.
    """
    if options.name == "local":
        from dmeta.runtime.local import LocalRuntime

        return LocalRuntime(worker_factory, server_factory, device, options.threads_per_worker)
    # Ray costs half a second to import, and a local run must work where it is broken.
    from dmeta.runtime.ray_runtime import RayRuntime

    return RayRuntime(options, worker_factory, server_factory, device, max_useful_workers, run_id)
