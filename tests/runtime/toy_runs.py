"""Runs of the toy work: how they are started, and what an undisturbed one gives."""

from __future__ import annotations

import time

import numpy as np

from dmeta.runtime import ComputeOptions, RuntimeOptions, make_runtime
from dmeta.runtime.blocks import blocks_of
from tests.runtime import toy

NUM_STEPS = 3
THREADS = 2


def start(worker_factory=None, server_factory=None, run_id="run", device="cpu", **changes):
    asked = {"name": "ray", "num_workers": 2, "cpus_per_worker": 0.5}
    return make_runtime(
        RuntimeOptions(**asked | changes),
        worker_factory or toy.ToyWorkerFactory(),
        server_factory or toy.ToyServerFactory(),
        device,
        max_useful_workers=4,
        run_id=run_id,
        compute=ComputeOptions(threads_per_worker=THREADS),
    )


def train_blocks(step):
    return blocks_of("train", step, 15, 4)


def many_blocks(step):
    """More than are added at once: 20."""
    return blocks_of("train", step, 39, 2)


def train(runtime, first=0, steps=NUM_STEPS, blocks=train_blocks):
    return [
        runtime.step(step, blocks(step), blocks(step + 1) if step + 1 < steps else ())
        for step in range(first, steps)
    ]


def num_actors():
    from ray._private.state import actors

    return sum(entry["State"] != "DEAD" for entry in actors().values())


def kill(actor, get_lost):
    """Kill an actor and wait until Ray knows: until `get_lost` raises a RayError."""
    import ray
    from ray.exceptions import RayError

    ray.kill(actor)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            ray.get(get_lost())
        except RayError:
            return
        time.sleep(0.05)
    raise AssertionError("what the actor owned is still there")


class _Owner:
    """Owns an object, which is lost with it."""

    def put(self):
        import ray

        return [ray.put(np.zeros(50_000, np.float32))]


def lost_object(ray):
    """Reference of what was there, and is no more."""
    owner = ray.remote(_Owner).options(num_cpus=0).remote()
    [lost] = ray.get(owner.put.remote())
    kill(owner, lambda: lost)
    return lost
