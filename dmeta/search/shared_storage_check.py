"""Checks before the first trial that every node of the cluster sees the search's folder.

A trial runs wherever there is room for it, and writes there. On a node that does not see the folder
it would be lost, hours later; so each node is asked to read what was just written here.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmeta.addresses import is_address, within
from dmeta.runs.remote_mirror import DistantFolder

_PATIENCE_S = 120.0
"""A node starts a process for the answer: a second, or many where it is busy."""

_SHOWN = 5


class AliveNode(NamedTuple):
    """A node of the cluster.

    Attributes:
        node_id: Ray's name of it.
        address: where it is, for people.
    """

    node_id: str
    address: str


ReadOn: TypeAlias = Callable[[Sequence[AliveNode], str], Mapping[AliveNode, str]]
"""What each node finds in a file; empty where there is none. Those that do not answer lack."""


def check_seen(folder: str, nodes: Sequence[AliveNode], read_on: ReadOn) -> None:
    """Raise if a folder is not one and the same on all nodes.

    Args:
        folder: there, and can be written to; or an address.
        nodes: those that are alive.
        read_on: asks them.

    Raises:
        ValueError: a node does not see it, or does not answer; the message names the nodes.
    """
    if len(nodes) < 2:
        return
    # A new name each time: some network file systems remember for a while what was not there.
    token = secrets.token_hex(16)
    with _written(folder, f".seen-{token}", token) as marker:
        found = read_on(nodes, marker)
    blind = [node.address for node in nodes if found.get(node, token) != token]
    silent = [node.address for node in nodes if node not in found]
    if blind:
        raise ValueError(
            f"every node must see the search's run_dir, got {folder}, which "
            f"{_in_words(blind, len(nodes))} cannot read; "
            + (
                "give every node the storage's credentials and endpoint"
                if is_address(folder)
                else "choose a run_dir on a storage that all nodes have mounted at the same path, "
                "or an address"
            )
        )
    if silent:
        raise ValueError(
            "every node must say whether it sees the search's run_dir, got no answer from "
            f"{_in_words(silent, len(nodes))} in {_PATIENCE_S:g} s; see to them (ray status), or "
            "try again"
        )


@contextlib.contextmanager
def _written(folder: str, name: str, content: str) -> Iterator[str]:
    """A file in a folder or at an address, for a while; where it is."""
    if is_address(folder):
        there = DistantFolder(folder)
        there.write(name, content.encode())
        try:
            yield within(folder, name)
        finally:
            with contextlib.suppress(Exception):  # who may write may not be allowed to remove
                there.remove(name)
        return
    path = Path(folder, name)
    path.write_text(content)
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


def alive_nodes() -> list[AliveNode]:
    """Those of the connected cluster."""
    listed: Any = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        AliveNode(node["NodeID"], f"{node['NodeManagerAddress']} {node['NodeID'][:8]}")
        for node in listed
        if node["Alive"]
    ]


def read_by_tasks(nodes: Sequence[AliveNode], location: str) -> dict[AliveNode, str]:
    """Read a file on each node, by a task of Ray's that takes no CPU."""

    def content() -> str:
        # Sent as it is: a function of this module would have each node import torch first.
        from dmeta.addresses import is_address, open_address

        try:
            if is_address(location):
                files, path = open_address(location, "run_dir")
                return bytes(files.cat_file(path)).decode()
            with open(location) as file:  # noqa: PTH123
                return file.read()
        except Exception:
            return ""

    task: Any = ray.remote(num_cpus=0, max_retries=0)(content)
    refs = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        refs[task.options(scheduling_strategy=there).remote()] = node
    done, late = ray.wait(list(refs), num_returns=len(refs), timeout=_PATIENCE_S)
    for ref in late:
        ray.cancel(ref, force=True)
    found = {}
    for ref in done:
        try:
            found[refs[ref]] = ray.get(ref)
        except RayError:  # the node is gone: no answer
            continue
    return found


def _in_words(addresses: Sequence[str], num_nodes: int) -> str:
    shown = ", ".join(sorted(addresses)[:_SHOWN])
    more = ", ..." if len(addresses) > _SHOWN else ""
    return f"{len(addresses)} of {num_nodes} nodes ({shown}{more})"
