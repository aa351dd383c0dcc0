"""One Ray cluster for all tests of the room: its start costs seconds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="package")
def cluster():
    """Ray with a local cluster of 2 CPUs, which runtimes join and leave running."""
    import ray

    from dmeta.runtime.cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        # Workers import the toy by name; they get the driver's PYTHONPATH, not its sys.path.
        inherited = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", f"{ROOT}:{inherited}" if inherited else ROOT)
        patch.setattr("dmeta.runtime.cluster._usable_cpus", lambda: 2)
        assert connect(None)
        yield ray
        ray.shutdown()
