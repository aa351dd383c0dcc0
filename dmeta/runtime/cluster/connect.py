"""The Ray cluster that a run uses: found, joined or started, measured, and left unchanged.

Knows Ray and nothing of what is computed on it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray._private import utils as rays
from ray.exceptions import LocalRayletDiedError
from ray.util.placement_group import get_current_placement_group

from dmeta.capacity import usable_cpus
from dmeta.runtime.cluster import access, exit_notice, tokens
from dmeta.runtime.cluster.session_folder import make_session_folder, remove_session_folder
from dmeta.runtime.options import RuntimeOptions
from dmeta.runtime.ray.head_monitor import HeadWatch
from dmeta.runtime.ray.placement import Node

_LOG = logging.getLogger(__name__)

_SESSION_FOLDERS: list[Path] = []
"""Of the cluster of our own that is running, if there is one."""

_OPEN_FILES, _OPEN_FILES_PER_CPU = 200, 4


def joins_existing(address: str | None) -> bool:
    """Whether a run with this address uses a cluster that is already there."""
    return ray.is_initialized() or (address or os.environ.get("RAY_ADDRESS") or "local") != "local"


def connect(
    address: str | None,
    *,
    allow_unauthenticated: bool = False,
    dashboard: bool = False,
    shows_logs: bool = True,
    go_on: str = exit_notice.GO_ON,
) -> bool:
    """Join the cluster at `address` or start a local one; nothing if Ray is already initialised.

    Args:
        address: `RuntimeOptions.address`.
        allow_unauthenticated: join a cluster on a network even if it requires no token.
        dashboard: whether a local cluster has one.
        shows_logs: whether what other processes print is printed here, too.
        go_on: what to do if this machine's raylet is stopped, with which Ray ends the program.

    Returns: whether this call connected, and the caller must therefore `leave`.

    Raises:
        ValueError: the cluster at `address` cannot or must not be joined (`access.admit`), or
            too few files may be open.
    """
    if ray.is_initialized():
        return False
    _check_open_files()
    # What a lost process leaves unread is lost on purpose; Ray would print a page for each.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # it would tell of a head that says goodbye
    try:
        if joins_existing(address):
            _join(access.address_to_join(address), allow_unauthenticated, shows_logs)
        else:
            _start(dashboard, shows_logs)
    except BaseException:
        ray.shutdown()
        raise
    if (raylet := _raylet_pid()) is not None:
        exit_notice.start_exit_notice(raylet, go_on)
    return True


def leave() -> None:
    """Leave the cluster that `connect` joined, or stop the one that it started.

    What Ray kept of one of our own is deleted, unless an error is on its way: then its logs may say
    why.
    """
    exit_notice.end()
    ray.shutdown()
    failed = isinstance(sys.exc_info()[1], Exception)
    while _SESSION_FOLDERS:
        folder = _SESSION_FOLDERS.pop()
        if failed:
            _LOG.info("Ray's logs are kept in %s", folder)
        else:
            remove_session_folder(folder)


def _raylet_pid() -> int | None:
    """Ray's process of this node, that this program talks to; None: it cannot be seen."""
    node: Any = ray._private.worker._global_node
    if node is None:
        return None
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or ()
        if process.info["name"] == "raylet" and any(node.raylet_socket_name in w for w in words):
            return int(process.pid)
    return None


@contextlib.contextmanager
def connected(
    options: RuntimeOptions, *, shows_logs: bool = True, go_on: str = exit_notice.GO_ON
) -> Iterator[None]:
    """Be in the cluster that `options` name (`connect`), and leave it as it was.

    Raises:
        RuntimeError: this machine's raylet was stopped, where Ray lets that be known.
    """
    ours = connect(
        options.address,
        allow_unauthenticated=options.allow_unauthenticated,
        dashboard=options.dashboard,
        shows_logs=shows_logs,
        go_on=go_on,
    )
    try:
        yield
    except LocalRayletDiedError as error:
        raise RuntimeError(exit_notice.sentence(go_on)) from error
    finally:
        if ours:
            leave()


def watch_head() -> HeadWatch | None:
    """Begin to watch the head of the connected cluster; None where that cannot be done."""
    if access.uses_tls():
        return None
    return HeadWatch(ray.get_runtime_context().gcs_address)


def _join(address: str, allow_unauthenticated: bool, shows_logs: bool) -> None:
    access.admit(address, allow_unauthenticated=allow_unauthenticated)
    loopback = _on_loopback() if access.is_loopback(address) else contextlib.nullcontext()
    with _sigterm_held(), loopback:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=shows_logs)


def _start(dashboard: bool, shows_logs: bool) -> None:
    """Start a cluster that listens on this machine's loopback alone, and asks for a token."""
    tokens.make_private_token()
    tokens.check_file()
    here = this_machine()
    folder = make_session_folder()  # stays if Ray does not start: its logs may say why
    with _sigterm_held(), _on_loopback():
        context = ray.init(
            address="local",
            num_cpus=int(here.cpus),
            num_gpus=int(here.gpus),
            include_dashboard=dashboard,
            dashboard_host=access.LOOPBACK,
            logging_level=logging.ERROR,
            log_to_driver=shows_logs,
            _node_ip_address=access.LOOPBACK,
            _temp_dir=str(folder / "r"),  # which Ray makes 0777
        )
    _SESSION_FOLDERS.append(folder)
    if dashboard:
        _LOG.warning("the dashboard is at http://%s", context.dashboard_url)


def open_files_needed() -> int:
    """Open files that a cluster of our own needs on this machine, about."""
    return _OPEN_FILES + _OPEN_FILES_PER_CPU * usable_cpus()


def _check_open_files() -> None:
    """Refuse a limit on open files below which Ray hangs, or prints without an end.

    Its processes have about 60 each (GCS and raylet the most), and 3 more for each worker. The soft
    limit does not count: Ray raises it to the hard one.
    """
    needed = open_files_needed()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard not in (resource.RLIM_INFINITY, -1) and hard < needed:
        raise ValueError(
            f"Ray needs a limit of at least {needed} open files on this machine, got {hard}; raise "
            f"it (`ulimit -Hn {max(needed, 8192)}`, as root or in /etc/security/limits.conf), or "
            "choose runtime=local"
        )


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray take 127.0.0.1 for this node's address, and so listen nowhere else.

    On Linux Ray turns a ``_node_ip_address`` of 127.0.0.1 into the one on the network, and then
    listens on every interface. Its switch for macOS and Windows, where it does not, is read when
    Ray is imported (by us here, by Ray's own processes from the environment).
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, enabled = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def this_machine() -> Node:
    """What a local cluster has: the CPUs this process may use, and the GPUs torch sees."""
    import torch

    return Node(cpus=usable_cpus(), gpus=torch.cuda.device_count())


def nodes_for_workers() -> list[Node]:
    """What the connected cluster has for workers, node by node, used at the moment or not.

    Inside a placement group that captures children (a Tune trial), the group's bundles, less what
    the calling actor itself takes.
    """
    group = get_current_placement_group()
    context = ray.get_runtime_context()
    if group is not None and is_in_group():
        bundles = [_node(bundle) for bundle in group.bundle_specs]
        own = _node(context.get_assigned_resources())  # type: ignore[no-untyped-call]
        return [Node(bundles[0].cpus - own.cpus, bundles[0].gpus - own.gpus), *bundles[1:]]
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [_node(node["Resources"]) for node in nodes if node["Alive"]]


def is_in_group() -> bool:
    """Whether actors started from here go into a placement group, whose room never changes."""
    captures = ray.get_runtime_context().should_capture_child_tasks_in_placement_group
    return get_current_placement_group() is not None and bool(captures)


def _node(resources: dict[str, float]) -> Node:
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


@contextlib.contextmanager
def _sigterm_held() -> Iterator[None]:
    """Hold a SIGTERM back until Ray is up, and give it to the caller's handler then.

    A second one is not held.

    Ray would replace that handler by its own, which exits in the middle of the start (with 15, or
    by an abort). Ray's own stays where the caller has none: it stops Ray's processes before the
    exit.
    """
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if not in_main or before in (signal.SIG_DFL, None):
        yield
        return
    heard: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) > 1 and callable(before):  # Ray may never come up
            before(number, frame)

    install, rays.set_sigterm_handler = rays.set_sigterm_handler, lambda _: None
    signal.signal(signal.SIGTERM, hold)
    try:
        yield
    finally:
        rays.set_sigterm_handler = install
        signal.signal(signal.SIGTERM, before)
    if heard:
        signal.raise_signal(signal.SIGTERM)
