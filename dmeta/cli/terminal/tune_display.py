"""Shows a search: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from dmeta.formatting import duration, next_lines, plus_minus, safe_text
from dmeta.search.options import SearchOptions
from dmeta.search.trials import TrialRow

_LINE_EVERY_S = 15.0
_MOST_SHOWN = 12
_ORDER = ("running", "paused", "waiting", "finished", "cut", "diverged", "failed")


class TuneDisplay:
    """Shows a search while it goes on (a `dmeta.search.tune_callback.Watcher`)."""

    def __init__(
        self,
        title: Sequence[str],
        options: SearchOptions,
        searched: Sequence[str],
        console: Console | None = None,
        line_every_s: float = _LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows nothing yet.

        Args:
            title: lines that say what is searched, to be shown when it begins.
            options: of the search.
            searched: keys of its space.
            console: where to; standard output if None.
            line_every_s: least seconds between plain lines, unless a trial ended.
            clock: rising seconds.
        """
        self._title, self._options, self._searched = title, options, searched
        self._console = Console() if console is None else console
        self._line_every_s, self._clock = line_every_s, clock
        self._began = clock()
        self._rows: Sequence[TrialRow] = ()
        self._best: TrialRow | None = None
        self._line_at, self._ended = -float("inf"), -1
        self._live: Live | None = None

    def _start(self) -> None:
        for line in self._title:
            self._print(line)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._picture, console=self._console, refresh_per_second=2
            )
            self._live.start()

    def on_trials(self, rows: Sequence[TrialRow], best: TrialRow | None) -> None:
        """Take in all trials, as they stand, and the best so far."""
        if not self._rows:
            self._start()
        self._rows, self._best = rows, best
        if self._live is not None:
            return
        ended = sum(row.status in ("finished", "cut", "diverged", "failed") for row in rows)
        now = self._clock()
        if now - self._line_at >= self._line_every_s or ended != self._ended:
            self._line_at, self._ended = now, ended
            self._print(self._line())

    def on_phase(self, what: str) -> None:
        """Say what the search turns to."""
        self._print(what)

    def conclude(self, lines: Sequence[str], paths: Sequence[str], next_command: str) -> None:
        """Say what was found, what was written and what to do next."""
        self.close()
        for line in lines:
            self._print(line)
        for at, path in enumerate(paths):
            self._print(f"{'wrote' if at == 0 else '':<10}{path}")
        for line in next_lines(next_command):
            self._print(line)

    def close(self) -> None:
        """Leave the last picture standing. Twice does nothing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> TuneDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self) -> str:
        counts: Counter[str] = Counter(row.status for row in self._rows)
        states = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
        total = self._options.num_trials
        of = "" if total is None else f" of {total}"
        text = f"{duration(self._clock() - self._began)}: {len(self._rows)}{of} trials ({states})"
        if (best := self._best) is None:
            return text
        values = [f"{k}={best.shown(k)}" for k in self._searched if k in best.point]
        score = f"{self._score(best)} at step {best.step}"
        return f"{text}; best: trial {best.number}, {score} ({', '.join(values)})"

    def _picture(self) -> RenderableType:
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for head in ("trial", "status", "score", "step", *self._searched):
            table.add_column(head, justify="right", overflow="fold")
        best = self._best
        first = [r for r in self._rows if r.status == "running"]
        others = [r for r in reversed(self._rows) if r.status not in ("running", "waiting")]
        picked = [*([best] if best else []), *(r for r in first if r is not best)]
        picked += [r for r in others if r is not best]
        for row in picked[:_MOST_SHOWN]:
            cells = [str(row.number), row.status, self._score(row), str(row.step)]
            cells += [row.shown(key) for key in self._searched]
            texts = (safe_text(cell, self._console) for cell in cells)
            table.add_row(*texts, style="bold" if row is best else None)
        line = safe_text(self._line(), self._console)
        line.overflow = "fold"
        return Group(line, table)

    def _score(self, row: TrialRow) -> str:
        if row.score is None or row.ci95 is None:
            return ""
        return f"{row.score:.4g} {plus_minus(self._console)} {row.ci95:.2g}"

    def _print(self, text: str) -> None:
        self._console.print(safe_text(text, self._console), soft_wrap=True)
