"""What a run reports while it is running: `metrics.jsonl` and TensorBoard events.

One JSON object a line. ``{"event": "train", "step": ...}`` has the means over the tasks since the
line before; ``{"event": "val", ...}`` an evaluation; ``{"event": "rejected", ...}`` a step that was
not applied (`dmeta.training.rejections`). On a resume, lines after the checkpoint's step
are dropped: they will be written again, with the same numbers but for the clock.
"""

from __future__ import annotations

import json
import logging
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from dmeta.runs.files import AppendedFile, replace_file
from dmeta.runs.json_lines import read_rows
from dmeta.runs.layout import METRICS
from dmeta.runtime.messages import StepReport

_LOG = logging.getLogger(__name__)

Row = Mapping[str, Any]


class Observer(Protocol):
    """Receives the events of a run. It must not change the run."""

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
    """Writes rows to ``metrics.jsonl`` and ``tensorboard/`` in a run directory.

    A disk that is full does not end a run: rows wait until they can be written.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        """Opens the files, dropping rows after `first_step`."""
        path = run_dir / METRICS
        _drop_after(path, first_step)
        self._lines = AppendedFile(path)
        folder = run_dir / "tensorboard"
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        self._events = AppendedFile(folder / name)
        first = {"step": first_step + 1, "file_version": "brain.Event:2"}
        began = SessionLog(status=SessionLog.START)  # hides what an earlier file has from there on
        self._events.append(_record(**first) + _record(step=first_step + 1, session_log=began))

    def on_row(self, row: Row) -> None:
        """Append one row."""
        self._lines.append((json.dumps(row) + "\n").encode())
        values = [
            Summary.Value(tag=f"{row['event']}/{key}", simple_value=value)
            for key, value in row.items()
            if isinstance(value, int | float) and key != "step"
        ]
        self._events.append(_record(step=row["step"], summary=Summary(value=values)))

    def on_step(self, step: int, report: StepReport) -> None:
        """Nothing: rows say enough."""

    def on_phase(self, what: str) -> None:
        """Nothing: of no interest afterwards."""

    def close(self) -> None:
        """Flush and close."""
        self._lines.close()
        self._events.close()


def _record(**fields: Any) -> bytes:
    """An event as TensorBoard's files have it: length, data, and a checksum of each.

    Not by tensorboardX's own writer: its thread dies of a full disk, and then the run waits for it.
    """
    data: bytes = Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(data))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
    return length + next(checks) + data + next(checks)


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All rows of a run; lines that are none are left out (`dmeta.runs.json_lines`)."""
    return read_rows(run_dir / METRICS).rows


def _drop_after(path: Path, step: int) -> None:
    """Leave the rows up to a step in a file of metrics; says which lines are no rows."""
    rows, bad = read_rows(path)
    if bad:
        _LOG.warning(
            "%s has %d lines that are no rows of metrics (the first is line %d); they are dropped",
            path,
            len(bad),
            bad[0],
        )
    kept = "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step).encode()
    if not path.exists() or path.read_bytes() != kept:
        replace_file(path, kept)
