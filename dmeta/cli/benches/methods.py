"""`dmeta bench methods`: what a task of each method costs, on the same task source and model."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dmeta.algorithms import ALGORITHMS
from dmeta.bench.methods import MethodCosts, MethodsOptions, check_reference, method_costs
from dmeta.bench.methods_figure import methods_figure
from dmeta.cli.benches.method_settings import MethodSettings, of_methods
from dmeta.cli.benches.report import BenchCommand, count_of, folder_of, say, write_report
from dmeta.formatting import digits
from dmeta.launch import workplace_of
from dmeta.options import checked
from dmeta.runtime.memory import keep_freed_memory
from dmeta.runtime.threads import torch_threads
from dmeta.training.autotune.selection import with_selection
from dmeta.training.config import run_config
from dmeta.training.setup import Run, prepare

_HEADINGS = ("examples", "params", "ms", "x ms", "MiB", "x MiB")

_LEGEND = (
    "a task is a few-shot task with its support and query examples, or a mini-batch;",
    "ms: of a task's meta-gradient, median; MiB: peak of tensors, of a block (loop: one task's);",
    "x: divided by that of {reference}; params: meta-parameters",
)


def bench_methods(command: BenchCommand) -> None:
    """Seconds and memory of a task of every method: a table, JSON and a plot."""
    options = checked(MethodsOptions, command.bench, "bench")
    config, console = run_config(command.settings), Console()
    keep_freed_memory()
    names = dict.fromkeys((options.reference, *(options.methods or ALGORITHMS)))
    with torch_threads(config.compute.threads_per_worker):
        runs, left_out = of_methods(list(names), command.overrides, _prepared)
        check_reference(options.reference, runs, left_out)
        costs = method_costs(runs, options, lambda line: say(console, line))
    run = runs[costs.reference.method]
    title = _title(run, costs)
    say(console, title)
    console.print(_table(costs))
    for line in _LEGEND:
        say(console, line.format(reference=costs.reference.method))
    left_out |= costs.left_out
    for name, reason in left_out.items():
        say(console, f"not measured: {name}: {reason}")
    folder = folder_of("methods", run.config, options.out)
    content = {**_content(costs), "left_out": left_out}
    written = [
        write_report(run, options, content, folder / "methods.json"),
        methods_figure(costs, title, folder / "methods.png"),
    ]
    say(console, f"wrote {' and '.join(map(str, written))}")


def _prepared(method: MethodSettings) -> Run:
    with workplace_of(method.config) as workplace:
        return with_selection(prepare(method.config), None, workplace)


def _title(run: Run, costs: MethodCosts) -> str:
    config = run.config
    return (
        f"methods on {config.task.source.name} with {config.model.name}: "
        f"{config.task.evaluation.ways} ways, {config.task.evaluation.shots} shots, "
        f"{costs.device}, {count_of(costs.threads, 'thread')}"
    )


def _table(costs: MethodCosts) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for heading in ("method", "gradient", "plan"):
        table.add_column(heading, no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in costs.rows:
        size, memory = row.peak_bytes, costs.memory(row)
        table.add_row(
            row.method,
            row.gradient,
            row.plan,
            str(row.examples),
            f"{row.num_params:,}",
            digits(1000 * row.seconds_per_task, 3),
            digits(costs.times(row), 3),
            "" if size is None else digits(size / 2**20, 3),
            "" if memory is None else digits(memory, 3),
        )
    return table


def _content(costs: MethodCosts) -> dict[str, Any]:
    rows = [
        {
            **dataclasses.asdict(row),
            "seconds_per_task": row.seconds_per_task,
            "times": costs.times(row),
            "memory": costs.memory(row),
        }
        for row in costs.rows
    ]
    return {**dataclasses.asdict(costs), "rows": rows}
