from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dmeta.runtime import RuntimeOptions, make_runtime
from dmeta.runtime.cluster import connect as clusters
from dmeta.runtime.ray.placement import Node
from tests.runtime import toy

ROOT = Path(__file__).parents[3]

OWN_CLUSTER = """
import os, signal, sys, threading
from pathlib import Path
from dmeta.runtime import RuntimeOptions, make_runtime
from dmeta.runtime.blocks import blocks_of
from tests.runtime import toy

def children(pid):
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | children(child)
    return found

def ours(signum, frame): ...

class MainWorkerFactory(toy.ToyWorkerFactory):  # lives in __main__: travels by value
    pass

signal.signal(signal.SIGTERM, ours)
options = RuntimeOptions(name="ray", num_workers=1)
with make_runtime(options, MainWorkerFactory(), toy.ToyServerFactory(), "cpu", 1) as runtime:
    assert signal.getsignal(signal.SIGTERM) is ours
    runtime.step(0, blocks_of("train", 0, 2, 2))
    started = children(os.getpid())
    assert len(started) > 3, started
import ray
assert not ray.is_initialized()
import time
deadline = time.monotonic() + 20
alive = started
while alive and time.monotonic() < deadline:
    alive = {pid for pid in started if Path(f"/proc/{pid}").exists()
             and ") Z " not in Path(f"/proc/{pid}/stat").read_text()}
    time.sleep(0.1)
assert not alive, alive
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts processes in /proc")
def test_an_own_cluster_is_private_and_leaves_no_process(tmp_path):
    cleared = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {key: value for key, value in os.environ.items() if key not in cleared}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    script = tmp_path / "own.py"
    script.write_text(OWN_CLUSTER)
    subprocess.run([sys.executable, script], check=True, env=environment, timeout=600)
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


def test_workers_that_do_not_fit_this_machine_are_refused_before_ray_starts(monkeypatch):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("ray.init was called"))
    monkeypatch.setattr(clusters, "this_machine", lambda: Node(2, 0))
    options = RuntimeOptions(name="ray", num_workers=5)
    with pytest.raises(ValueError, match="must fit the cluster's 2 CPUs, got 5 x 1"):
        make_runtime(options, toy.ToyWorkerFactory(), toy.ToyServerFactory(), "cpu", 4)


def test_own_processes_listen_on_loopback_alone(cluster):
    cluster.get(cluster.remote(lambda: None).remote())
    this = psutil.Process()
    listening = {
        connection.laddr.ip
        for process in [this, *this.children(recursive=True)]
        for connection in connections_of(process)
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert [node["NodeManagerAddress"] for node in cluster.nodes()] == ["127.0.0.1"]


def connections_of(process):
    try:
        return process.net_connections("inet")
    except psutil.NoSuchProcess:
        return []


def test_starting_on_loopback_changes_nothing_of_ray_afterwards(cluster):
    from ray._private import ray_constants, services

    assert ray_constants.ENABLE_RAY_CLUSTER
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR not in os.environ
    with clusters._on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert services.is_localhost("127.0.0.1")


@pytest.mark.parametrize(
    ("address", "variable", "joins"),
    [
        (None, None, False),
        (None, "local", False),
        ("local", "10.0.0.1:6379", False),
        ("auto", None, True),
        ("10.0.0.1:6379", None, True),
        (None, "10.0.0.1:6379", True),
    ],
)
def test_an_address_is_joined_unless_it_is_local(monkeypatch, address, variable, joins):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert clusters.joins_existing(address) is joins


@pytest.mark.parametrize("hard", [64, 207, 208, resource.RLIM_INFINITY])
def test_a_limit_on_open_files_that_ray_would_hang_at_is_refused(monkeypatch, hard):
    import ray

    started = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(clusters, "_start", lambda *_: started.append(True))
    monkeypatch.setattr(clusters, "usable_cpus", lambda: 2)
    monkeypatch.setattr(clusters.resource, "getrlimit", lambda _: (64, hard))
    if hard in (64, 207):
        with pytest.raises(ValueError, match=rf"at least 208 open files .*, got {hard}; raise it"):
            clusters.connect(None)
    else:
        clusters.connect(None)
    assert bool(started) is (hard not in (64, 207))


@pytest.mark.parametrize(
    ("times", "expected"),
    [(1, ["up", "handled", "down"]), (2, ["handled", "down"])],
)
def test_a_sigterm_while_ray_starts_is_held_until_it_is_up_and_a_second_is_not(
    monkeypatch, times, expected
):
    import ray
    from ray._private import utils

    done = []

    def start(**options):
        utils.set_sigterm_handler(lambda *_: done.append("Ray's own handler"))
        for _ in range(times):
            signal.raise_signal(signal.SIGTERM)
        done.append("up")

    def interrupt(number, frame):
        done.append("handled")
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("down"))
    monkeypatch.setattr(clusters.access, "admit", lambda *_, **__: None)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            clusters.connect("10.0.0.1:6379")
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == expected


def test_inside_a_placement_group_only_its_bundles_count(cluster):
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([{"CPU": 0.25}, {"CPU": 0.5}, {"CPU": 0.5}])
    strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    ask = cluster.remote(clusters.nodes_for_workers)
    try:
        nodes = cluster.get(ask.options(num_cpus=0.25, scheduling_strategy=strategy).remote())
    finally:
        remove_placement_group(group)
    assert sorted(nodes) == [Node(0, 0), Node(0.5, 0), Node(0.5, 0)]
    assert clusters.nodes_for_workers() == [Node(2, 2)]
