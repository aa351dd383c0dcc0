"""`dmeta bench peers`: the same work in dmeta and in other libraries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dmeta.bench.peers import PeerCost, PeerCosts, PeersOptions, peer_costs
from dmeta.bench.peers_figure import peers_figure
from dmeta.cli.bench_report import count_of, folder_of, say, title_of, write_report
from dmeta.formatting import digits
from dmeta.runtime.memory import keep_freed_memory
from dmeta.runtime.threads import torch_threads
from dmeta.training.autotune.planning import plan_line, planned
from dmeta.training.config import run_config
from dmeta.training.options import checked
from dmeta.training.setup import prepare

_HEADINGS = ("seconds", "min..max", "tasks/s", "ratio", "MiB", "difference")

_LEGEND = (
    "seconds: one block, median; ratio: how many times dmeta is as fast; MiB: peak of its tensors;",
    "difference: of the meta-gradient from dmeta's, relative, in float64; rounding up to {bar:.0e}",
)


def bench_peers(settings: Mapping[str, Any], bench: Mapping[str, Any]) -> None:
    """Time, memory and meta-gradient of dmeta and its peers: a table, JSON and a plot."""
    options = checked(PeersOptions, {k: v for k, v in bench.items() if k != "out"}, "bench")
    config, console = run_config(settings), Console()
    keep_freed_memory()
    with torch_threads(config.compute.threads_per_worker):
        run = planned(prepare(config))
        if line := plan_line(run):
            say(console, line)
        costs = peer_costs(run, options, lambda line: say(console, line))
    block = f"one block of {count_of(costs.num_tasks, 'task')}"
    threads = count_of(costs.threads, "thread")
    textbook = ["the peers' network as in textbooks"] if options.network == "textbook" else []
    title = title_of(run, block, f"plan={costs.plan}", costs.device, threads, *textbook)
    say(console, title)
    console.print(_table(costs))
    for line in _LEGEND:
        say(console, line.format(bar=costs.bar))
    for row in costs.rows:
        if not row.is_same:
            say(console, f"not the same: {row.library}: its meta-gradient is another (difference)")
    for each in costs.left_out:
        say(console, f"not measured: {each.library}: {each.reason}")
    folder = folder_of("peers", run, bench["out"])
    written = [
        write_report(run, options, _content(costs), folder / "peers.json"),
        peers_figure(costs, title, folder / "peers.png"),
    ]
    say(console, f"wrote {' and '.join(map(str, written))}")


def _table(costs: PeerCosts) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("library", no_wrap=True)
    table.add_column("version", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in costs.rows:
        table.add_row(row.library, row.version, *_cells(costs, row))
    return table


def _cells(costs: PeerCosts, row: PeerCost) -> tuple[str, ...]:
    return (
        f"{row.median_seconds:.3g}",
        f"{min(row.seconds):.3g}..{max(row.seconds):.3g}",
        digits(costs.tasks_per_second(row), 3),
        f"{costs.ratio(row):.2f}",
        f"{row.peak_bytes / 2**20:.4g}",
        "" if row.difference is None else f"{row.difference:.1e}",
    )


def _content(costs: PeerCosts) -> dict[str, Any]:
    rows = [
        {
            **dataclasses.asdict(row),
            "median_seconds": row.median_seconds,
            "tasks_per_second": costs.tasks_per_second(row),
            "ratio": costs.ratio(row),
            "is_same": row.is_same,
        }
        for row in costs.rows
    ]
    return {**dataclasses.asdict(costs), "rows": rows}
