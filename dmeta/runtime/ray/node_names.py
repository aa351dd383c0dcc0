"""Names of the nodes on which actors run, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray._private import state

from dmeta.runtime.ray.calls import Actor


def whereabouts(workers: Mapping[int, Actor]) -> str:
    """Where workers are, or that they have no place yet: ``worker 3 on node gpu-17, dead``.

    Args:
        workers: number -> actor.
    """
    names: dict[str, str] = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        names[node["NodeID"]] = str(node.get("NodeManagerHostname") or node["NodeID"])
    return "; ".join(f"worker {n} {_place(actor, names)}" for n, actor in workers.items())


def _place(actor: Actor, names: Mapping[str, str]) -> str:
    entry: Any = state.actors(actor._actor_id.hex())
    node = (entry.get("Address") or {}).get("NodeID")
    if node is None or set(node) <= {"f", "F"}:  # Ray's number of no node
        return "has no place yet"
    return f"on node {names.get(node, node)}, {str(entry['State']).lower()}"
