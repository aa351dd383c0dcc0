"""The same work in dmeta and in other libraries: seconds, memory, and whether it is the same.

    python -m tests.peers.speed experiment=omniglot_5w1s_maml bench.repeats=20

Takes the settings of a run as `dmeta train` does, and ``bench.KEY=VALUE`` for `PeersOptions`
(``bench.paths.higher=FOLDER``: the folder that a package lies in, if it is not installed;
``bench.out=FOLDER``).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra.errors import HydraException
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dmeta.cli.benches.report import count_of, folder_of, say, title_of, write_report
from dmeta.cli.errors import format_error
from dmeta.cli.settings.hydra_app import compose
from dmeta.formatting import digits
from dmeta.options import checked
from dmeta.runtime.memory import keep_freed_memory
from dmeta.runtime.threads import torch_threads
from dmeta.training.autotune.planning import plan_line, planned
from dmeta.training.config import run_config
from dmeta.training.setup import prepare
from tests.peers.figure import peers_figure
from tests.peers.measure import PeerCost, PeerCosts, PeersOptions, peer_costs

_BENCH = "bench."
_HEADINGS = ("seconds", "min..max", "tasks/s", "ratio", "MiB", "difference")

_LEGEND = (
    "seconds: one block, median; ratio: how many times dmeta is as fast; MiB: peak of its tensors;",
    "difference: of the meta-gradient from dmeta's, relative, in float64; rounding up to {bar:.0e}",
)


def main(arguments: Sequence[str]) -> int:
    """Measure what the command line asks for; 2: it is wrong."""
    try:
        _measure(
            [word for word in arguments if not word.startswith(_BENCH)],
            _options([word for word in arguments if word.startswith(_BENCH)]),
        )
    except (ValueError, HydraException) as error:
        print(format_error(error, "train", list(arguments))[0], file=sys.stderr)
        return 2
    return 0


def _options(words: Sequence[str]) -> dict[str, Any]:
    """``bench.paths.higher=.`` and so on as nested values; none is given twice."""
    options: dict[str, Any] = {}
    for word in words:
        key, _, value = word.removeprefix(_BENCH).partition("=")
        *groups, name = key.split(".")
        inner = options
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = yaml.safe_load(value)
    return options


def _measure(overrides: Sequence[str], bench: Mapping[str, Any]) -> None:
    """Time, memory and meta-gradient of dmeta and its peers: a table, JSON and a plot."""
    options = checked(PeersOptions, {k: v for k, v in bench.items() if k != "out"}, "bench")
    settings = compose("train", overrides)
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
    folder = folder_of("peers", run.config, bench.get("out"))
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
