"""`dmeta bench WHAT`: what the choices of a run cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dmeta.addresses import folder_here
from dmeta.cli.benches.accuracy import bench_accuracy
from dmeta.cli.benches.gradients import bench_gradients
from dmeta.cli.benches.methods import bench_methods
from dmeta.cli.benches.plans import bench_plans
from dmeta.cli.benches.profile import bench_profile
from dmeta.cli.benches.report import BenchCommand
from dmeta.cli.benches.scale import bench_scale
from dmeta.runs.folder import check_folder

_COMMANDS: dict[str, Callable[[BenchCommand], None]] = {
    "accuracy": bench_accuracy,
    "gradients": bench_gradients,
    "methods": bench_methods,
    "plans": bench_plans,
    "profile": bench_profile,
    "scale": bench_scale,
}


def bench_command(settings: dict[str, Any], overrides: list[str]) -> None:
    """The verb: measure what ``bench.name`` names."""
    bench = dict(settings.pop("bench"))
    name = bench.pop("name", None)
    if name not in _COMMANDS:
        raise ValueError(
            f"bench.name must be one of {', '.join(_COMMANDS)}, got {name!r}; "
            "leave it out: dmeta bench WHAT sets it"
        )
    if (out := bench.get("out")) is not None:
        check_folder(folder_here(str(out), "bench.out"), "bench.out")
    _COMMANDS[name](BenchCommand(settings, bench, overrides))
