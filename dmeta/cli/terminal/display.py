"""Shows a run: a live bar on a terminal, plain lines in a log.

It formats the events that it receives; it computes nothing and must not change a run.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from dmeta.cli.terminal.results_table import fault_parts
from dmeta.formatting import digits, duration, safe_text, score
from dmeta.metrics.declaration import Declaration
from dmeta.runs.metrics import Row
from dmeta.runtime.messages import StepReport

_LINE_EVERY_S = 10.0


def console_for(progress: bool | None) -> Console:
    """Where progress is shown to a caller from Python; a quiet console if it is not.

    Args:
        progress: whether to show it; None: where standard output, or else standard error, is a
            terminal or a notebook.
    """
    consoles = (Console(), Console(stderr=True))
    shown = [console for console in consoles if console.is_terminal or console.is_jupyter]
    if progress is False or not (shown or progress):
        return Console(quiet=True, force_terminal=False, force_jupyter=False)
    return (shown or consoles)[0]


def can_redraw(console: Console) -> bool:
    """Whether a bar can be redrawn in place: on a terminal, or in a notebook with ipywidgets."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


class Display:
    """Shows a run while it goes on (a `dmeta.runs.metrics.Observer`).

    On a terminal or in a notebook: a bar that is redrawn. Elsewhere: a line for the first, the last
    and, at most every few seconds, other rows of training metrics, and for every validation; and
    whenever another step was rejected or another block retried.
    """

    def __init__(
        self,
        console: Console | None = None,
        line_every_s: float = _LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows nothing yet.

        Args:
            console: where to; standard output if None.
            line_every_s: least seconds between plain lines of training metrics.
            clock: rising seconds.
        """
        self._console = Console() if console is None else console
        self._line_every_s, self._clock = line_every_s, clock
        self._total = self._step = 0
        self._metric: Declaration | None = None
        self._train: Row | None = None
        self._val: Row | None = None
        self._pending: list[Row] = []
        self._line_at: float | None = None
        self._faults = (0, 0)
        self._first: tuple[float, int] | None = None
        self._live: Live | None = None
        self._progress = self._bar()
        self._task: TaskID | None = None

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            expand=True,
        )

    def start(
        self, title: Sequence[str], total_steps: int, done_steps: int, metric: Declaration
    ) -> None:
        """Show the title and begin; what was shown of a run before stays as it is.

        Args:
            title: lines that say what is run.
            total_steps: outer steps of the whole run.
            done_steps: of those, how many an earlier run has done.
            metric: the primary one.
        """
        self.close()
        self._total, self._step, self._metric = total_steps, done_steps, metric
        self._train = self._val = self._line_at = self._first = None
        self._faults = (0, 0)
        for line in title:
            self._print(line)
        if done_steps:
            self._print(f"going on after step {done_steps}/{total_steps}")
        if can_redraw(self._console):
            self._progress = self._bar()
            self._task = self._progress.add_task(
                "", total=total_steps, completed=done_steps, left=""
            )
            self._live = Live(
                get_renderable=self._picture, console=self._console, refresh_per_second=4
            )
            self._live.start()

    def on_step(self, step: int, report: StepReport) -> None:  # noqa: ARG002 - a bar needs no more
        """Move on; `step` counts from 1."""
        self._flush()
        self._step = step
        if self._first is None:
            # The clock starts after the first step, which also pays for starting the workers.
            self._first = (self._clock(), step)

    def on_row(self, row: Row) -> None:
        """Show a line of metrics; training metrics wait for a validation of the same step."""
        if row["event"] == "train":
            self._flush()
            self._train = row
            if self._live is None and self._is_due(row):
                self._pending.append(row)
        elif row["event"] == "val":
            self._val = row
            if self._live is None:
                if not self._pending and self._train and self._train["step"] == row["step"]:
                    self._pending.append(self._train)  # a line is due anyway: let it say all
                self._pending.append(row)
                self._flush()

    def on_phase(self, what: str) -> None:
        """Say what the run turns to."""
        self.message(what)

    def message(self, text: str) -> None:
        """Show a line of text, above the bar if there is one."""
        self._flush()
        self._print(text)

    def close(self) -> None:
        """Show what is left to show, and leave the last picture standing. Twice does nothing."""
        self._flush()
        if self._live is not None:
            self._live.refresh()  # in a notebook, to stop does not
            self._live.stop()
            self._live = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_due(self, row: Row) -> bool:
        now, faults = self._clock(), (row.get("rejected", 0), row.get("retried_blocks", 0))
        quiet = self._line_at is not None and now - self._line_at < self._line_every_s
        if quiet and faults == self._faults and row["step"] < self._total:
            return False
        self._line_at, self._faults = now, faults
        return True

    def _flush(self) -> None:
        if self._pending:
            train = next((row for row in self._pending if row["event"] == "train"), None)
            val = next((row for row in self._pending if row["event"] == "val"), None)
            self._pending = []
            self._print(self._line(train, val))

    def _line(self, train: Row | None, val: Row | None) -> str:
        step = (train or val or {"step": self._step})["step"]
        left = self._left(step)
        parts = [
            f"step {step}/{self._total}",
            *([] if train is None else _train_parts(train, self._metric)),
            *([f"{left} left"] if left else []),
            *([] if val is None else [_val_part(val, self._metric)]),
        ]
        return "  ".join(parts)

    def _left(self, step: int) -> str:
        """Time left at the pace so far; nothing while that is unknown."""
        if self._first is None or step <= self._first[1] or step >= self._total:
            return ""
        pace = (self._clock() - self._first[0]) / (step - self._first[1])
        return duration(pace * (self._total - step))

    def _picture(self) -> RenderableType:
        if self._task is not None:
            left = self._left(self._step)
            self._progress.update(
                self._task, completed=self._step, left=f"{left} left" if left else ""
            )
        parts = [] if self._train is None else _train_parts(self._train, self._metric)
        if self._val is not None:
            parts.append(f"{_val_part(self._val, self._metric)} at step {self._val['step']}")
        return Group(self._progress, safe_text("  ".join(parts), self._console))

    def _print(self, text: str) -> None:
        self._console.print(safe_text(text, self._console), soft_wrap=True, highlight=False)


def _train_parts(row: Row, metric: Declaration | None) -> list[str]:
    parts = []
    loss, value = row.get("loss"), None if metric is None else row.get(metric.name)
    # Where the loss is the metric, once is enough.
    if loss is not None and (metric is None or metric.higher_is_better or loss != value):
        parts.append(f"loss {digits(loss, 3)}")
    if metric is not None and value is not None:
        parts.append(f"{metric.name} {score(metric.unit, value)}")
    if (speed := row.get("tasks_per_second")) is not None:
        parts.append(f"{digits(speed, 3)} tasks/s")
    return [*parts, *fault_parts(row.get("rejected", 0), row.get("retried_blocks", 0))]


def _val_part(row: Row, metric: Declaration | None) -> str:
    assert metric is not None  # a run that validates was begun
    count = row.get("num_non_finite", 0)
    tasks = f"{row['num_tasks']} tasks" + (f", {count} not finite" if count else "")
    value = score(metric.unit, row[metric.name], row["ci95"])
    return f"val {metric.name} {value} ({tasks})"
