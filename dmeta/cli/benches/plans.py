"""`dmeta bench plans`: the execution plans, compared on the same tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dmeta.bench.plans import PlanCost, PlanCosts, PlansOptions, plan_costs
from dmeta.bench.plans_figure import plans_figure
from dmeta.cli.benches.report import BenchCommand, count_of, folder_of, say, title_of, write_report
from dmeta.formatting import digits
from dmeta.options import checked
from dmeta.runtime.memory import keep_freed_memory
from dmeta.runtime.threads import torch_threads
from dmeta.training.config import run_config
from dmeta.training.setup import Run, prepare

_HEADINGS = ("seconds", "min..max", "tasks/s", "share", "MiB", "compile", "error")

_LEGEND = (
    "seconds: one block, median; MiB: peak of its tensors (compiled: counted on a GPU only);",
    "share: a task is {task} GFLOP; of a 2048x2048 {precision} product's rate, {rate} GFLOP/s;",
    "compile: seconds of the first call; from the cache on the disk if it was compiled before;",
    "error: how far the meta-gradient is from that of loop in {reference}, relative",
)


def bench_plans(command: BenchCommand) -> None:
    """Time, memory and error of every plan: a table, JSON and a plot."""
    options = checked(PlansOptions, command.bench, "bench")
    config, console = run_config(command.settings), Console()
    keep_freed_memory()
    with torch_threads(config.compute.threads_per_worker):
        run = prepare(config)
        costs = plan_costs(run, options, lambda line: say(console, line))
    title = _title(run, costs)
    say(console, title)
    console.print(_table(costs))
    rate, task = (digits(ops / 1e9, 3) for ops in (costs.product_rate, costs.operations))
    values = {"rate": rate, "task": task, "precision": config.compute.precision}
    for line in _LEGEND:
        say(console, line.format(**values, reference=costs.reference))
    for each in costs.left_out:
        size = "" if (n := each.num_tasks) is None else f", {count_of(n, 'task')} or more"
        say(console, f"not measured: {each.plan}{size}: {each.reason}")
    folder = folder_of("plans", run.config, options.out)
    written = [write_report(run, options, _content(costs), folder / "plans.json")]
    if costs.rows:
        written.append(plans_figure(costs.rows, title, folder / "plans.png"))
    say(console, f"wrote {' and '.join(map(str, written))}")


def _title(run: Run, costs: PlanCosts) -> str:
    sizes = list(dict.fromkeys(row.num_tasks for row in costs.rows))
    block = f"one block of {count_of(sizes[0], 'task')}" if len(sizes) == 1 else "one block"
    return title_of(run, block, costs.device, count_of(costs.threads, "thread"))


def _table(costs: PlanCosts) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("tasks", justify="right", no_wrap=True)
    table.add_column("plan", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row, after in zip(costs.rows, [*costs.rows[1:], None], strict=True):
        is_last = after is not None and after.num_tasks != row.num_tasks
        table.add_row(str(row.num_tasks), row.plan, *_cells(costs, row), end_section=is_last)
    return table


def _cells(costs: PlanCosts, row: PlanCost) -> tuple[str, ...]:
    return (
        f"{row.median_seconds:.3g}",
        f"{min(row.seconds):.3g}..{max(row.seconds):.3g}",
        digits(row.tasks_per_second, 3),
        f"{100 * costs.share(row):.1f}%",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.4g}",
        "" if row.compile_seconds is None else f"{row.compile_seconds:.3g}",
        f"{row.error:.1e}",
    )


def _content(costs: PlanCosts) -> dict[str, Any]:
    rows = [
        {
            **dataclasses.asdict(row),
            "median_seconds": row.median_seconds,
            "tasks_per_second": row.tasks_per_second,
            "share": costs.share(row),
        }
        for row in costs.rows
    ]
    return {**dataclasses.asdict(costs), "rows": rows}
