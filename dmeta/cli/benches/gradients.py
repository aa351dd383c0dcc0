"""`dmeta bench gradients`: the cost of every meta-gradient, and its error."""

from __future__ import annotations

import dataclasses

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dmeta.bench.figures import cost_figure
from dmeta.bench.gradients import Cost, GradientCosts, GradientsOptions, gradient_costs
from dmeta.cli.benches.report import BenchCommand, count_of, folder_of, say, title_of, write_report
from dmeta.options import checked
from dmeta.runtime.memory import keep_freed_memory
from dmeta.runtime.threads import torch_threads
from dmeta.training.config import run_config
from dmeta.training.setup import prepare

_HEADINGS = ("seconds", "MiB", "predicted", "cosine", "norm", "error", "float32")

_LEGEND = (
    "seconds: one block, median; MiB: peak memory of its tensors, counted and predicted;",
    "cosine, norm, error: against the exact meta-gradient, in float64; float32: error in float32",
)


def bench_gradients(command: BenchCommand) -> None:
    """Time, memory and error of every meta-gradient: a table, JSON and a plot."""
    options = checked(GradientsOptions, command.bench, "bench")
    run = prepare(run_config(command.settings))
    config, console = run.config, Console()
    keep_freed_memory()
    with torch_threads(config.compute.threads_per_worker):
        costs = gradient_costs(run, options, lambda line: say(console, line))
    block = f"one block of {count_of(costs.num_tasks, 'task')}"
    title = title_of(run, block, f"plan={costs.plan}", costs.device)
    say(console, title)
    console.print(_table(costs))
    for line in _LEGEND:
        say(console, line)
    for each in costs.left_out:
        steps = "" if (k := each.inner_steps) is None else f", {count_of(k, 'inner step')}"
        say(console, f"not measured: {each.gradient}{steps}: {each.reason}")
    folder = folder_of("gradients", run.config, options.out)
    rows = [{**dataclasses.asdict(r), "median_seconds": r.median_seconds} for r in costs.rows]
    content = {**dataclasses.asdict(costs), "rows": rows}
    written = [write_report(run, options, content, folder / "gradients.json")]
    if costs.rows:
        written.append(cost_figure(costs.rows, title, folder / "gradients.png"))
    say(console, f"wrote {' and '.join(map(str, written))}")


def _table(costs: GradientCosts) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("gradient", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row, after in zip(costs.rows, [*costs.rows[1:], None], strict=True):
        is_last = after is not None and after.inner_steps != row.inner_steps
        table.add_row(str(row.inner_steps), row.gradient, *_cells(row), end_section=is_last)
    return table


def _cells(row: Cost) -> list[str]:
    cells = [f"{row.median_seconds:.3g}", f"{row.peak_bytes / 2**20:.4g}"]
    cells.append("" if row.predicted_bytes is None else f"{row.predicted_bytes / 2**20:.4g}")
    if (agreement := row.agreement) is None:
        return [*cells, *[""] * 4]
    return [
        *cells,
        f"{agreement.cosine:.4f}",
        f"{agreement.norm_ratio:.3g}",
        f"{agreement.relative_error:.1e}",
        f"{agreement.relative_error_float32:.1e}",
    ]
