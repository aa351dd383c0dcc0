"""One Ray cluster for all tests of the room: its start costs seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Ray's workers import the toy by name: they inherit the driver's PYTHONPATH, not its sys.path.
HERE = str(Path(__file__).parent)
ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="session")
def cluster():
    """A local cluster of 2 CPUs, which runtimes join and leave running."""
    ray = pytest.importorskip("ray")
    from dmeta.runtime.cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", ":".join([ROOT, HERE, *filter(None, sys.path)]))
        patch.setattr("dmeta.runtime.cluster._usable_cpus", lambda: 2)
        assert connect(None)
        yield ray
        ray.shutdown()
