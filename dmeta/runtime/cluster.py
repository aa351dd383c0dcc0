"""The Ray cluster that a run uses: found, joined or started, measured, and left as it was.

Knows Ray and nothing of what is computed on it.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.util.placement_group import get_current_placement_group

from dmeta.runtime.placement import Node

_LOOPBACK = "127.0.0.1"


def joins_existing(address: str | None) -> bool:
    """Whether a run with this address uses a cluster that is already there."""
    return ray.is_initialized() or address is not None or bool(os.environ.get("RAY_ADDRESS"))


def connect(address: str | None) -> bool:
    """Join the cluster at `address` or start a local one; nothing if Ray is already initialised.

    Returns: whether this call connected, and the caller must therefore `ray.shutdown`.
    """
    if ray.is_initialized():
        return False
    with _callers_sigterm_handler():
        if joins_existing(address):
            ray.init(address=address, logging_level=logging.ERROR)
        else:
            _make_private_token()
            here = this_machine()
            ray.init(
                address="local",
                num_cpus=int(here.cpus),
                num_gpus=int(here.gpus),
                include_dashboard=False,
                logging_level=logging.ERROR,
                _node_ip_address=_LOOPBACK,
            )
    return True


def this_machine() -> Node:
    """What a local cluster has: the CPUs this process may use, and the GPUs torch sees."""
    import torch

    return Node(cpus=_usable_cpus(), gpus=torch.cuda.device_count())


def nodes_for_workers() -> list[Node]:
    """What the connected cluster has for workers, node by node, whoever uses it at the moment.

    Inside a placement group that captures children (a Tune trial), the group's bundles, less what
    the calling actor itself takes.
    """
    group = get_current_placement_group()
    context = ray.get_runtime_context()
    if group is not None and context.should_capture_child_tasks_in_placement_group:
        bundles = [_node(bundle) for bundle in group.bundle_specs]
        own = _node(context.get_assigned_resources())  # type: ignore[no-untyped-call]
        return [Node(bundles[0].cpus - own.cpus, bundles[0].gpus - own.gpus), *bundles[1:]]
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [_node(node["Resources"]) for node in nodes if node["Alive"]]


def _node(resources: dict[str, float]) -> Node:
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _usable_cpus() -> int:
    """CPUs of the machine, of this process's affinity mask and of its cgroup: the least."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    return max(1, math.floor(min(count, _cgroup_cpus())))


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup")) -> float:
    """The CPU quota of a container (cgroup v2, then v1), or infinity."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError):  # no such file, or "max": no quota
        return math.inf


def _make_private_token() -> None:
    """Write Ray's token file before Ray does: Ray would leave it readable by everyone (0644).

    An existing token is the user's and stays as it is. Linked into place, so that no process ever
    sees half a token.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path.home() / ".ray" / "auth_token"
    if mode != "token" or elsewhere or path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix="auth_token.") as file:  # 0600
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
        if not path.exists():
            os.link(file.name, path)


@contextmanager
def _callers_sigterm_handler() -> Iterator[None]:
    """Give the caller its SIGTERM handler back, which `ray.init` replaces.

    Ray's own stays where the caller had none: it stops Ray's processes before the exit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before not in (signal.SIG_DFL, None):
        signal.signal(signal.SIGTERM, before)
