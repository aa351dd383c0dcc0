"""`dmeta bench accuracy`: every method, trained for the same seconds on the same task source."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dmeta.algorithms import ALGORITHMS
from dmeta.bench.accuracy import (
    AccuracyOptions,
    AccuracyRow,
    best_first,
    finished_row,
    read_table,
    seconds_of_step,
    steps_within,
    validated_every,
    write_table,
)
from dmeta.bench.accuracy_figure import accuracy_figure
from dmeta.cli.benches.method_settings import MethodSettings, of_methods
from dmeta.cli.benches.report import BenchCommand, count_of, folder_of, say
from dmeta.cli.train import train
from dmeta.formatting import score
from dmeta.launch import open_runtime, workplace_of
from dmeta.options import checked
from dmeta.quoting import as_override
from dmeta.runs.files import replace_file
from dmeta.runs.layout import RESULTS
from dmeta.runtime.threads import torch_threads
from dmeta.training.autotune.selection import with_selection
from dmeta.training.config import RunConfig, run_config
from dmeta.training.loop import TrainingStopped
from dmeta.training.setup import prepare

_TABLE, _PLOT = "accuracy.json", "accuracy.png"
_TIMES = "step_seconds.json"
"""Method -> seconds of an outer step, as they were timed when the comparison began."""

_LEGEND = (
    "s/step: seconds of an outer step; tasks: few-shot tasks, or mini-batches, in all;",
    "scores: mean and 95% confidence interval of test tasks, single model",
)


def bench_accuracy(command: BenchCommand) -> None:
    """Accuracy of every method after the same seconds: runs, a table, JSON and a plot."""
    options = checked(AccuracyOptions, command.bench, "bench")
    config, console = run_config(command.settings), Console()
    folder = folder_of("accuracy", config, options.out)
    title, table = _title(config, options), folder / _TABLE
    done = read_table(table, title)
    names = [name for name in options.methods or ALGORITHMS if name not in done]
    tell = functools.partial(say, console)
    timed = functools.partial(_timed, options=options, path=folder / _TIMES, tell=tell)
    found, left_out = of_methods(names, command.overrides, timed)
    for name, each in found.items():
        try:
            row = _trained(each, options, folder / name, tell)
        except TrainingStopped as stop:
            left_out[name] = str(stop)
        else:
            # Another process may have added its own.
            write_table({**read_table(table, title), name: row}.values(), title, table)
    rows = list(read_table(table, title).values())
    if not rows:
        raise ValueError(f"no method could be trained: {next(iter(left_out.values()))}")
    tell(title)
    console.print(_table(rows))
    for line in _LEGEND:
        tell(line)
    for name, reason in left_out.items():
        tell(f"not measured: {name}: {reason}")
    plot = accuracy_figure(rows, title, folder / _PLOT)
    tell(f"wrote {table} and {plot}")


class _Timed(NamedTuple):
    method: MethodSettings
    steps: int


def _timed(
    method: MethodSettings, options: AccuracyOptions, path: Path, tell: Callable[[str], None]
) -> _Timed:
    """How many steps fit into the seconds; timed once for all that use the folder."""
    config, name = method.config, method.config.algorithm.name
    if name not in _read_times(path):
        with torch_threads(config.compute.threads_per_worker):
            run = prepare(config)
        with workplace_of(config) as workplace:
            run = with_selection(run, None, workplace)
            opened = functools.partial(open_runtime, workplace=workplace)
            seconds = seconds_of_step(run, opened, options)
        times = {**_read_times(path), name: seconds}
        replace_file(path, (json.dumps(times, indent=2) + "\n").encode())
    steps = steps_within(options.seconds, _read_times(path)[name])
    tell(f"{name}: {count_of(steps, 'step')} of {count_of(config.meta_batch_size, 'task')}")
    return _Timed(method, steps)


def _read_times(path: Path) -> dict[str, float]:
    return json.loads(path.read_text()) if path.exists() else {}


def _trained(
    timed: _Timed, options: AccuracyOptions, run_dir: Path, tell: Callable[[str], None]
) -> AccuracyRow:
    """Train the method for its steps; go on where its run was interrupted."""
    every = validated_every(timed.steps, options.points)
    overrides = [*timed.method.words, f"steps={timed.steps}", f"eval.every={every}"]
    if not (run_dir / RESULTS).exists():
        tell(f"training {timed.method.config.algorithm.name} in {run_dir}")
        train([*overrides, as_override("run_dir", str(run_dir)), "resume=auto"])
    return finished_row(run_dir, options.seconds, overrides)


def _title(config: RunConfig, options: AccuracyOptions) -> str:
    size = config.task.evaluation
    return (
        f"methods on {config.task.source.name} with {config.model.name}: "
        f"{count_of(size.ways, 'way')}, {count_of(size.shots, 'shot')}, "
        f"{options.seconds:g} s of training each"
    )


def _table(rows: Sequence[AccuracyRow]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("method", no_wrap=True)
    for heading in ("steps", "s/step", "tasks", "transductive", "non-transductive"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in best_first(rows):
        table.add_row(
            row.method,
            f"{row.steps:,}",
            f"{row.seconds / row.steps:.3g}",
            f"{row.steps * row.tasks_per_step:,}",
            score(row.declaration.unit, *row.transductive, decimals=2),
            score(row.declaration.unit, *row.non_transductive, decimals=2),
        )
    return table
