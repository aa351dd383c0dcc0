"""`dmeta bench scale`: how many steps per second the parameter server takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dmeta.bench.scale import Capacity, ScaleOptions, capacities
from dmeta.bench.scale_figure import scale_figure
from dmeta.cli.benches.report import BenchCommand, folder_of, say, write_report
from dmeta.formatting import digits
from dmeta.options import checked
from dmeta.training.config import run_config
from dmeta.training.setup import prepare

_HEADINGS = ("workers", "MB", "way", "steps/s", "MB/s", "model steps/s")

_LEGEND = (
    "workers compute nothing: what is left is messages, copies and additions;",
    "MB/s: of gradients, all workers together; model: from what one worker's messages take, if one",
    "vector at a time goes into a sum, and all sums of a level of the tree, or of the server's",
    "parts, at once",
)


def bench_scale(command: BenchCommand) -> None:
    """Steps a second for every number of workers, size and way: a table, JSON and a plot."""
    options = checked(ScaleOptions, command.bench, "bench")
    config, console = run_config(command.settings), Console()
    run = prepare(config)
    rows = capacities(config.runtime, options, lambda line: say(console, line))
    console.print(_table(rows))
    for line in _LEGEND:
        say(console, line)
    folder = folder_of("scale", run.config, options.out)
    content = {"rows": [_content(row) for row in rows]}
    title = "steps a second with workers that compute nothing"
    written = [
        write_report(run, options, content, folder / "scale.json"),
        scale_figure(rows, title, folder / "scale.png"),
    ]
    say(console, f"wrote {' and '.join(map(str, written))}")


def _table(rows: Sequence[Capacity]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading == "way" else "right", no_wrap=True)
    for row in sorted(rows, key=lambda each: (each.num_bytes, each.num_workers, each.way)):
        table.add_row(
            str(row.num_workers),
            f"{row.num_bytes / 1e6:g}",
            row.way,
            digits(row.steps_per_second, 3),
            digits(row.gradient_bytes_per_second / 1e6, 3),
            digits(1 / row.model_seconds, 3),
        )
    return table


def _content(row: Capacity) -> dict[str, Any]:
    return {
        **dataclasses.asdict(row),
        "steps_per_second": row.steps_per_second,
        "gradient_bytes_per_second": row.gradient_bytes_per_second,
    }
