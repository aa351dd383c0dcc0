"""One Ray cluster for all tests of the room: its start costs seconds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.ray.placement import Node
from tests.runtime import toy
from tests.runtime.toy_runs import start, train

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="package")
def cluster():
    """Ray with a local cluster of 2 CPUs and 2 GPUs that are declared, which runtimes join."""
    import ray

    from dmeta.runtime.cluster.connect import connect, leave

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        # Workers import the toy by name; they get the driver's PYTHONPATH, not its sys.path.
        inherited = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", f"{ROOT}:{inherited}" if inherited else ROOT)
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        patch.setattr("dmeta.runtime.cluster.connect.this_machine", lambda: Node(2, 2))
        assert connect(None)
        yield ray
        leave()


@pytest.fixture(scope="package")
def local_run():
    """Digest, reports and evaluation of the reference: the local runtime."""
    with start(name="local") as runtime:
        reports = train(runtime)
        return runtime.digest(), reports, runtime.evaluate(blocks_of("val", 0, 5, 2))


@pytest.fixture(scope="package")
def shared(cluster, tmp_path_factory):
    """Two workers that `toy.arm` can make misbehave, the server's first state, and its folder."""
    folder = tmp_path_factory.mktemp("shared")
    worker = toy.ToyWorkerFactory(np.arange(100_000, dtype=np.float32), str(folder))
    with start(worker, toy.ToyServerFactory(folder=str(folder)), max_attempts=2) as runtime:
        yield runtime, runtime.state()(), folder


@pytest.fixture
def folder(shared):
    """Where faults are armed; what a test left there is taken away."""
    yield shared[2]
    toy.disarm(shared[2])


@pytest.fixture
def runtime(shared, folder):
    """The shared runtime in its first state."""
    runtime, state, _ = shared
    runtime.load(state)
    return runtime
