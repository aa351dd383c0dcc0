"""`dmeta bench profile`: where the time of an outer step goes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dmeta.bench.profile import ALL_PARTS, LOOP, OUTER, RUNTIME, Profile, ProfileOptions, profile
from dmeta.bench.profile_figure import profile_figure
from dmeta.cli.benches.report import BenchCommand, count_of, folder_of, say, title_of, write_report
from dmeta.formatting import digits
from dmeta.launch import open_runtime, workplace_of
from dmeta.options import checked
from dmeta.runtime.threads import torch_threads
from dmeta.training.autotune.planning import plan_line
from dmeta.training.autotune.selection import with_selection
from dmeta.training.config import run_config
from dmeta.training.setup import prepare

_WORDS = {
    "draw": "tasks are drawn",
    "move": "moved to the device and preprocessed",
    "mathematics": "inner loops and their meta-gradient",
    "pack": "results become a vector and numbers",
    OUTER: "the server adds the gradients and steps",
    RUNTIME: "messages, copies, workers that wait",
    LOOP: "the training loop and its metrics",
}


def bench_profile(command: BenchCommand) -> None:
    """Seconds and share of every part of a step: a table, JSON and a plot."""
    options = checked(ProfileOptions, command.bench, "bench")
    config, console = run_config(command.settings), Console()
    with torch_threads(config.compute.threads_per_worker):
        run = prepare(config)
    with workplace_of(config) as workplace:
        run = with_selection(run, None, workplace)
        if line := plan_line(run):
            say(console, line)
        say(
            console, f"{count_of(options.warmup + options.steps, 'step')}, {options.steps} measured"
        )
        found = profile(run, functools.partial(open_runtime, workplace=workplace), options)
    title = title_of(
        run,
        f"a step of {count_of(found.num_tasks, 'task')}",
        f"plan={run.config.compute.plan}",
        f"{found.runtime}, {count_of(found.num_workers, 'worker')}",
        found.device,
    )
    say(console, title)
    console.print(_table(found))
    say(
        console,
        f"{digits(found.tasks_per_second, 4)} tasks/s; everything around the mathematics: "
        f"{100 * found.share_around:.1f}% of a step",
    )
    folder = folder_of("profile", run.config, options.out)
    written = [
        write_report(run, options, _content(found), folder / "profile.json"),
        profile_figure(found, title, folder / "profile.png"),
    ]
    say(console, f"wrote {' and '.join(map(str, written))}")


def _table(found: Profile) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column("ms a step", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("what")
    for part in ALL_PARTS:
        last = part == ALL_PARTS[-1]
        table.add_row(
            part, *_cells(found.parts[part], found.share(part)), _WORDS[part], end_section=last
        )
    table.add_row("step", *_cells(found.seconds, 1.0), "")
    return table


def _cells(seconds: float, share: float) -> tuple[str, str]:
    return f"{1000 * seconds:.2f}", f"{100 * share:.1f}%"


def _content(found: Profile) -> dict[str, Any]:
    return {
        **dataclasses.asdict(found),
        "tasks_per_second": found.tasks_per_second,
        "share_around": found.share_around,
    }
