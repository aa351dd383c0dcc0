"""A small cluster for whole searches, and one search for many tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from dmeta.runtime.cluster import connect
from tests.search.searches import search

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """Ray with 2 CPUs, which the searches join and leave running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        inherited = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", f"{ROOT}:{inherited}" if inherited else ROOT)
        patch.setattr("dmeta.runtime.cluster._usable_cpus", lambda: 2)
        assert connect(None, shows_logs=False)
        yield
        ray.shutdown()


@pytest.fixture(autouse=True)
def _no_garbage_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a search leaves to the garbage collector is not found in the midst of another test."""
    yield
    if "cluster" in request.fixturenames:
        gc.collect()


@pytest.fixture(scope="package")
def whole(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of all four points."""
    run_dir = tmp_path_factory.mktemp("search") / "whole"
    results = search(run_dir)
    assert len(results) == 4
    assert not results.errors
    return run_dir
