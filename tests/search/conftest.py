"""A small cluster for whole searches, and one search for many tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmeta.runtime.cluster.connect import connect, leave
from tests.plugin_package import write_package
from tests.search.searches import search
from tests.search.shared_files import announce

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="package")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cluster's processes keep copies of what is at addresses."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cluster's processes find packages of others: `shared://`, and some for dmeta."""
    folder = tmp_path_factory.mktemp("plugins")
    announce(folder)
    write_package(folder)
    return folder


@pytest.fixture(scope="package")
def cluster(cache: Path, site: Path) -> Iterator[None]:
    """Ray with 2 CPUs, which the searches join and leave running; knows addresses `shared://`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMETA_CACHE", str(cache))
        patch.delenv("RAY_ADDRESS", raising=False)
        paths = [str(site), ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setattr("dmeta.runtime.cluster.connect.usable_cpus", lambda: 2)
        assert connect(None, shows_logs=False)
        yield
        leave()


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
