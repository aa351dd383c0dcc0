"""`dmeta bench WHAT`: what a run's choices cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dmeta.commands.bench_gradients import bench_gradients
from dmeta.commands.bench_peers import bench_peers
from dmeta.commands.bench_plans import bench_plans
from dmeta.commands.bench_profile import bench_profile

_COMMANDS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], None]] = {
    "gradients": bench_gradients,
    "peers": bench_peers,
    "plans": bench_plans,
    "profile": bench_profile,
}


def bench_command(settings: dict[str, Any], overrides: list[str]) -> None:  # noqa: ARG001
    """The verb: measure what ``bench.name`` names."""
    bench = dict(settings.pop("bench"))
    _COMMANDS[bench.pop("name")](settings, bench)
