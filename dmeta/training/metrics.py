"""What a run reports while it goes on: `metrics.jsonl` and TensorBoard events.

One JSON object a line. ``{"event": "train", "step": ...}`` has the means over the tasks since the
line before; ``{"event": "val", ...}`` an evaluation. On a resume, lines after the checkpoint's step
are dropped: they will be written again, with the same numbers but for the clock.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dmeta.runtime.protocol import StepReport

Row = Mapping[str, Any]


class Observer(Protocol):
    """Is told what happens in a run. It must not change it."""

    def on_row(self, row: Row) -> None:
        """A line of metrics, as in metrics.jsonl."""
        ...

    def on_step(self, step: int, report: StepReport) -> None:
        """An outer step is done; `step` counts from 1."""
        ...

    def on_phase(self, what: str) -> None:
        """The run turns to something else than its outer steps, e.g. the final evaluation."""
        ...


class MetricsWriter:
    """Writes rows to ``metrics.jsonl`` and ``tensorboard/`` in a run directory."""

    def __init__(self, run_dir: Path, first_step: int) -> None:
        """Opens the files, dropping rows after `first_step`."""
        from tensorboardX import SummaryWriter

        path = run_dir / "metrics.jsonl"
        kept = [row for row in read_metrics(run_dir) if row["step"] <= first_step]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._events = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)

    def on_row(self, row: Row) -> None:
        """Append one row."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for key, value in row.items():
            if isinstance(value, int | float) and key != "step":
                self._events.add_scalar(f"{row['event']}/{key}", value, row["step"])

    def on_step(self, step: int, report: StepReport) -> None:
        """Nothing: rows say enough."""

    def on_phase(self, what: str) -> None:
        """Nothing: of no interest afterwards."""

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self._events.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All rows of a run; a torn last line (a killed run) is dropped."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
