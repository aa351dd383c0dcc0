"""The faults: what each does to a training's processes, its network, its disk; how it is undone.

A fault acts on what it finds; it knows neither when it is applied nor what comes of it.
"""

from __future__ import annotations

import contextlib
import functools
import random
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import psutil

from tests.chaos.cluster import Cluster, Kind, Node, restart_gcs
from tests.chaos.processes import end, find, send
from tests.chaos.training import LARGE, RARE_NAN, SMALL, Recipe, Training

_SLOW_PERIOD_S = 0.5
_SLOW_SHARE = 0.1


@dataclass(frozen=True)
class Scene:
    """What a fault may act on; `draw` chooses among equals."""

    cluster: Cluster
    training: Training
    draw: random.Random


Undo: TypeAlias = Callable[[], None]
Apply: TypeAlias = Callable[[Scene], Undo]


@dataclass(frozen=True)
class Conditions:
    """What a training is started under, for faults that are there from the beginning.

    Attributes:
        recipe: what is trained.
        settings: of `dmeta train`, that decide no bit.
        num_files: limit of open files of the driver and all it starts; None: as it is.
        disk_bytes: size of the file system that the run's folder is on; None: the usual one.
        object_store_bytes: of each node.
        durable_gcs: the GCS can be started again.
    """

    recipe: Recipe = SMALL
    settings: tuple[str, ...] = ()
    num_files: int | None = None
    disk_bytes: int | None = None
    object_store_bytes: int = 200_000_000
    durable_gcs: bool = False


USUAL = Conditions()


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: of the table.
        words: what it is.
        needs: the cluster.
        apply: does it, and returns how it is undone; None: the conditions are all of it.
        hold_s: seconds until it is undone; None: it stays.
        every_s: seconds until it is done again where it is tried alone; None: once.
        ends_run: the driver does not survive it, and the run is resumed.
        weight: how often it is drawn for a soak; 0: never.
        conditions: what the training is started under.
    """

    name: str
    words: str
    needs: Kind
    apply: Apply | None
    hold_s: float | None = None
    every_s: float | None = None
    ends_run: bool = False
    weight: float = 0.0
    conditions: Conditions = USUAL


def _nothing() -> None:
    """There is nothing to undo."""


def _kill_role(role: str, scene: Scene) -> Undo:
    send([_one_of(role, scene)], signal.SIGKILL)
    return _nothing


def _stop_role(role: str, scene: Scene) -> Undo:
    stopped = [_one_of(role, scene)]
    send(stopped, signal.SIGSTOP)
    return lambda: send(stopped, signal.SIGCONT)


def _one_of(role: str, scene: Scene) -> psutil.Process:
    found = find(role)
    if not found:
        raise LookupError(f"there is no {role}")
    return scene.draw.choice(found)


def _slow_worker(scene: Scene) -> Undo:
    """A worker runs a tenth of the time."""
    slow = [_one_of("worker", scene)]
    over = threading.Event()

    def alternate() -> None:
        while not over.is_set():
            send(slow, signal.SIGSTOP)
            over.wait(_SLOW_PERIOD_S * (1 - _SLOW_SHARE))
            send(slow, signal.SIGCONT)
            over.wait(_SLOW_PERIOD_S * _SLOW_SHARE)

    thread = threading.Thread(target=alternate, daemon=True)
    thread.start()

    def undo() -> None:
        over.set()
        thread.join()

    return undo


def _kill_raylet(scene: Scene) -> Undo:
    send([_raylet(scene.cluster.other_node())], signal.SIGKILL)
    return _nothing


def _stop_raylet(scene: Scene) -> Undo:
    raylet = _raylet(scene.cluster.other_node())
    send([raylet], signal.SIGSTOP)
    return lambda: send([raylet], signal.SIGCONT)


def _raylet(node: Node) -> psutil.Process:
    assert node.raylet is not None
    return node.raylet


def _drain_node(deadline_s: int, scene: Scene) -> Undo:
    node = scene.cluster.other_node()
    scene.cluster.drain(node, deadline_s)
    return lambda: end([_raylet(node)])  # the machine is taken away


def _signal_driver(number: int, scene: Scene) -> Undo:
    scene.training.signal(number)
    return _nothing


def _kill_gcs(scene: Scene) -> Undo:
    send(find("gcs"), signal.SIGKILL)
    return _nothing


def _restart_gcs(scene: Scene) -> Undo:
    restart_gcs(down_s=3)
    return _nothing


def _cut_network(scene: Scene) -> Undo:
    network = scene.cluster.network
    assert network is not None
    node = scene.cluster.nodes.index(scene.cluster.other_node())
    network.cut(node)
    return lambda: network.heal(node)


def _fill_disk(scene: Scene) -> Undo:
    ballast = scene.training.run_dir.parent / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            if file.write(bytes(65536)) < 65536:
                file.write(bytes(4096))  # to the last page
    return ballast.unlink


def _driver(number: int) -> Apply:
    return functools.partial(_signal_driver, number)


def _kill(role: str) -> Apply:
    return functools.partial(_kill_role, role)


def _stop(role: str) -> Apply:
    return functools.partial(_stop_role, role)


_SMALL_DISK = Conditions(disk_bytes=64_000_000)
_DURABLE = Conditions(durable_gcs=True)
_DIVIDED = Conditions(LARGE, ("runtime.reduce=sharded", "runtime.snapshot_every=5"))
_SMALL_STORE = Conditions(LARGE, ("checkpoint.every=20",), object_store_bytes=80_000_000)

# Nodes are away for longer than it takes Ray, as it comes, to give a silent one up: over 30 s.
_ALL = (
    Fault("worker_kill", "a worker is killed (SIGKILL), every 3 s", Kind.OWN, _kill("worker"),
          every_s=3, weight=6),
    Fault("worker_stop", "a worker is stopped (SIGSTOP) for good", Kind.OWN, _stop("worker")),
    Fault("worker_pause", "a worker is stopped for 20 s", Kind.OWN, _stop("worker"), hold_s=20,
          weight=1),
    Fault("worker_slow", "a worker is 10 times as slow for 30 s", Kind.OWN, _slow_worker,
          hold_s=30, weight=1),
    Fault("raylet_kill", "another node's raylet is killed; a new one comes", Kind.RAYLETS,
          _kill_raylet, weight=2),
    Fault("raylet_stop", "another node's raylet is stopped for 90 s", Kind.RAYLETS, _stop_raylet,
          hold_s=90),
    Fault("node_drain", "another node is drained, and taken away 10 s later; a new one comes",
          Kind.RAYLETS, functools.partial(_drain_node, 10), hold_s=10, weight=1),
    Fault("server_kill", "the parameter server is killed", Kind.OWN, _kill("server"), weight=2),
    Fault("part_kill", "a part of a divided server is killed", Kind.RAYLETS, _kill("server"),
          conditions=_DIVIDED),
    Fault("part_node_kill", "another node, with a part of the server, is killed; a new one comes",
          Kind.RAYLETS, _kill_raylet, conditions=_DIVIDED),
    Fault("driver_sigterm", "the driver gets SIGTERM; resumed", Kind.OWN, _driver(signal.SIGTERM),
          ends_run=True),
    Fault("driver_sigint", "the driver gets SIGINT; resumed", Kind.OWN, _driver(signal.SIGINT),
          ends_run=True),
    Fault("driver_kill", "the driver is killed; resumed", Kind.OWN, _driver(signal.SIGKILL),
          ends_run=True, weight=1),
    Fault("gcs_kill", "the GCS is killed and stays away; resumed in a new cluster", Kind.RAYLETS,
          _kill_gcs, ends_run=True),
    Fault("gcs_restart", "the GCS is killed and started again 3 s later", Kind.RAYLETS,
          _restart_gcs, conditions=_DURABLE),
    Fault("partition_5s", "another node is cut off for 5 s", Kind.NAMESPACES, _cut_network,
          hold_s=5),
    Fault("partition_60s", "another node is cut off for 60 s", Kind.NAMESPACES, _cut_network,
          hold_s=60),
    Fault("disk_full", "the run's disk is full for 10 s", Kind.OWN, _fill_disk, hold_s=10,
          conditions=_SMALL_DISK),
    Fault("small_object_store", "an object store of 80 MB, vectors of 17 MB", Kind.RAYLETS, None,
          conditions=_SMALL_STORE),
    Fault("few_files", "at most 512 open files", Kind.OWN, None,
          conditions=Conditions(num_files=512)),
    Fault("nan_gradients", "1% of the gradients are NaN", Kind.OWN, None,
          conditions=Conditions(recipe=RARE_NAN)),
)  # fmt: skip

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ALL}
