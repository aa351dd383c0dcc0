"""The cluster that a training runs on: its own, several raylets, or one network namespace a node.

Nodes are started as an operator would, with `ray start`, and found by their raylets. Everything
uses a token made here. Knows nothing of faults.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from tests.chaos.namespaces import Network
from tests.chaos.processes import ACTORS, MARK, command, end, find, is_alive, role_of, started

_START_DEADLINE_S = 90.0
_RAY = (sys.executable, "-m", "ray.scripts.scripts")


class Kind(StrEnum):
    """What a fault needs."""

    OWN = "own"
    RAYLETS = "raylets"
    NAMESPACES = "namespaces"


@dataclass(frozen=True)
class ClusterOptions:
    """How the cluster is made.

    Attributes:
        kind: who starts it, and whether its nodes have a network each.
        num_nodes: raylets with one CPU each; the driver is on the first.
        num_more: nodes with one CPU each that Ray's autoscaler may add, and take away when idle.
        object_store_bytes: of each node.
        dashboard: the head has one, with its job server.
        durable_gcs: the GCS keeps its tables on the disk, and can be started again.
    """

    kind: Kind
    num_nodes: int = 2
    num_more: int = 0
    object_store_bytes: int = 200_000_000
    dashboard: bool = False
    durable_gcs: bool = False


@dataclass
class Node:
    """A place for a raylet, and the one that is there.

    Attributes:
        ip: its address.
        prefix: what is put in front of a command to run it there.
        raylet: the process; None before its start.
    """

    ip: str
    prefix: tuple[str, ...]
    raylet: psutil.Process | None = None

    @property
    def node_id(self) -> str:
        """Ray's name of the node."""
        assert self.raylet is not None
        words = self.raylet.cmdline()
        return next(w.partition("=")[2] for w in words if w.startswith("--node_id="))


class Cluster:
    """A running cluster; made by `cluster`."""

    def __init__(self, options: ClusterOptions, folder: Path, network: Network | None) -> None:
        """Nothing runs yet.

        Args:
            options: how it is made.
            folder: for Ray's files; a short path, as sockets are in it.
            network: namespaces of the nodes, if they have some.
        """
        self.options = options
        self.network = network
        self.address: str | None = None
        self._folder = folder
        self._num_starts = 0
        self.environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": str(folder),
            "PYTHONUNBUFFERED": "1",
            **MARK,
        }
        self.environment.pop("RAY_ADDRESS", None)
        places = network.places if network else [("127.0.0.1", ())] * options.num_nodes
        own = options.kind is Kind.OWN
        self.nodes = [] if own else [Node(ip, prefix) for ip, prefix in places]

    @property
    def driver_prefix(self) -> tuple[str, ...]:
        """What is put in front of the driver's command."""
        return self.nodes[0].prefix if self.nodes else ()

    def start(self) -> None:
        """Start every node; the first is the head."""
        if not self.nodes:
            return
        self._num_starts += 1
        if self.options.durable_gcs:
            self.environment["RAY_gcs_storage"] = "rocksdb"
            self.environment["RAY_gcs_storage_path"] = str(self._folder / f"g{self._num_starts}")
        head = self.nodes[0]
        port = _free_port()
        self.address = f"{head.ip}:{port}"
        ports = (f"--port={port}", f"--ray-client-server-port={_free_port()}")
        self._start_node(head, "--head", *ports, *self._dashboard(head), *self._autoscaler())
        for node in self.nodes[1:]:
            self._start_node(node, f"--address={self.address}")

    def _dashboard(self, head: Node) -> tuple[str, ...]:
        if not self.options.dashboard:
            return ("--include-dashboard=false",)
        port = _free_port()
        self.environment["RAY_API_SERVER_ADDRESS"] = f"http://{head.ip}:{port}"
        return (f"--dashboard-host={head.ip}", f"--dashboard-port={port}")

    def _autoscaler(self) -> tuple[str, ...]:
        """Ray's own, with its provider of nodes that are processes of this machine."""
        if not self.options.num_more:
            return ()
        self.environment |= {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "0",
        }
        more = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": self.options.num_more}
        head = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
        path = self._folder / "autoscaler.json"
        content = {
            "cluster_name": "autoscaled",
            "max_workers": self.options.num_more,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {"ray.head.default": head, "more": more},
            "head_node_type": "ray.head.default",
            "idle_timeout_minutes": 0.1,
            "upscaling_speed": 1.0,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }
        path.write_text(json.dumps(content))
        return (f"--autoscaling-config={path}",)

    def works(self) -> bool:
        """Whether a driver can join: its own raylet and the GCS live, or it brings them."""
        if not self.nodes:
            return True
        head = self.nodes[0].raylet
        return head is not None and is_alive(head) and bool(find("gcs"))

    def has(self, process: psutil.Process) -> bool:
        """Whether a process is the cluster's and may outlive a training: no driver, no actor."""
        return bool(self.nodes) and role_of(process) not in ("driver", *ACTORS)

    def mend(self) -> None:
        """Start the raylets anew that are dead, as an autoscaler would; not the driver's."""
        if not self.works():
            return
        for node in self.nodes[1:]:
            if node.raylet is None or not is_alive(node.raylet):
                self._start_node(node, f"--address={self.address}")

    def restart(self) -> None:
        """End what is left, and start a new cluster."""
        end(started())
        self.start()

    def other_node(self) -> Node:
        """A node that is not the driver's: where a server of one part is not."""
        for node in reversed(self.nodes[1:]):
            if node.raylet is not None and is_alive(node.raylet):
                return node
        raise LookupError("there is no node but the driver's")

    def drain(self, node: Node, deadline_s: int) -> None:
        """Tell the cluster that a node is about to go."""
        reason = ("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=chaos")
        deadline = f"--deadline-remaining-seconds={deadline_s}"
        where = (f"--address={self.address}", f"--node-id={node.node_id}")
        words = (*self.driver_prefix, *_RAY, "drain-node", *where, *reason, deadline)
        command(*words, environment=self.environment)

    def _start_node(self, node: Node, *options: str) -> None:
        before = {raylet.pid for raylet in find("raylet")}
        words = (*node.prefix, *_RAY, "start", *options, "--num-cpus=1", "--disable-usage-stats")
        store = f"--object-store-memory={self.options.object_store_bytes}"
        # Not a pipe, which the daemons would hold open.
        said = self._folder / "ray_start.txt"
        with said.open("w") as file:
            process = subprocess.Popen(
                (*words, store, f"--node-ip-address={node.ip}"),
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            try:
                code = process.wait(_START_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        new = [raylet for raylet in find("raylet") if raylet.pid not in before]
        if code or len(new) != 1:
            raise RuntimeError(f"ray start ended with {code}: {said.read_text()[-2000:]}")
        node.raylet = new[0]


@contextlib.contextmanager
def cluster(options: ClusterOptions) -> Iterator[Cluster]:
    """A running cluster, which leaves nothing: no process, no namespace, no file."""
    folder = Path(tempfile.mkdtemp(prefix="chaos", dir="/tmp"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        network = None
        if options.kind is Kind.NAMESPACES:
            network = stack.enter_context(Network(options.num_nodes))
        stack.callback(lambda: end(started()))
        made = Cluster(options, folder, network)
        made.start()
        yield made


def restart_gcs(down_s: float) -> None:
    """Kill the GCS, wait, and start it again by the same command."""
    [gcs] = find("gcs")
    words, environment, folder = gcs.cmdline(), gcs.environ(), gcs.cwd()
    gcs.kill()
    time.sleep(down_s)
    subprocess.Popen(
        words,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
