"""Files that grow by whole pieces; metrics on a disk that is full for a while."""

from __future__ import annotations

import json
import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmeta.runs.files import AppendedFile, naming
from dmeta.runs.metrics import MetricsWriter, read_metrics


@contextmanager
def full_at(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond: the kernel writes what fits, and refuses the rest."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_does_not_fit_waits_and_nothing_is_torn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0 ")
    file = AppendedFile(path)
    file.append(b"first ")
    with full_at(12), caplog.at_level(logging.WARNING):
        file.append(b"second ")
        file.append(b"third ")
        assert path.read_bytes() == b"0 first "
        assert caplog.text.count("cannot write to") == 1
    file.append(b"fourth ")
    file.close()
    assert path.read_bytes() == b"0 first second third fourth "


def test_what_never_fits_is_told_of_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = AppendedFile(tmp_path / "file")
    with full_at(4), caplog.at_level(logging.WARNING):
        file.append(b"too long")
        file.close()
    assert "8 bytes could not be written" in caplog.text
    assert (tmp_path / "file").read_bytes() == b""


def test_metrics_of_a_time_with_a_full_disk_are_written_later(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0)
    rows = [{"event": "train", "step": step, "loss": step / 3} for step in range(1, 60)]
    writer.on_row(rows[0])
    with full_at((tmp_path / "metrics.jsonl").stat().st_size + 30):
        for row in rows[1:50]:
            writer.on_row(row)
        assert read_metrics(tmp_path) == rows[:1]
    for row in rows[50:]:
        writer.on_row(row)
    writer.close()
    assert read_metrics(tmp_path) == rows
    assert events_in(tmp_path) == [(row["step"], pytest.approx(row["loss"])) for row in rows]


def events_in(run_dir: Path) -> list[tuple[int, float]]:
    """As TensorBoard reads them, checksums included."""
    import struct

    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    [path] = (run_dir / "tensorboard").iterdir()
    content, found = path.read_bytes(), []
    while content:
        size = struct.unpack("<Q", content[:8])[0]
        data, rest = content[12 : 12 + size], content[12 + size :]
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        assert struct.unpack("<I", rest[:4])[0] == masked_crc32c(data)
        event = Event.FromString(data)
        found += [(event.step, value.simple_value) for value in event.summary.value]
        content = rest[4:]
    return found


def test_a_resumed_run_hides_what_tensorboard_had_after_its_checkpoint(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    MetricsWriter(tmp_path, 7).close()
    content = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    first = int.from_bytes(content[:8], "little") + 16
    event = Event.FromString(content[first + 12 : -4])
    assert (event.step, event.session_log.status) == (8, SessionLog.START)


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    row = {"event": "train", "step": 1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + '\n{"step"')
    assert read_metrics(tmp_path) == [row]


FOREIGN = (
    b'{"event": "tra',
    b"null",
    b"[1]",
    b'"text"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"event": "train"}',
    b'{"event": "train", "step": -1}',
    b'{"event": "train", "step": true}',
    b'{"event": "train", "step": 2.5}',
    b'{"event": "train", "step": 1' + b"0" * 30 + b"}",
    b'{"event": "train", "step": 2, "loss": "\\u001b[31m"}',
    b'{"event": 5, "step": 2}',
)


def test_a_line_that_is_no_row_is_skipped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"event": "train", "step": step, "loss": 0.5} for step in range(1, 30)]
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join([*lines[:10], *FOREIGN, *lines[10:]]) + b'\n{"event": "trai')
    assert read_metrics(tmp_path) == rows
    MetricsWriter(tmp_path, 20).close()
    assert (
        f"has {len(FOREIGN)} lines that are no rows of metrics (the first is line 11)"
        in caplog.text
    )
    assert read_metrics(tmp_path) == rows[:20]
    caplog.clear()
    with path.open("ab") as file:
        file.write(b'{"event": "trai')
    MetricsWriter(tmp_path, 20).close()
    assert caplog.text == "", "a killed process leaves such a line"
    assert read_metrics(tmp_path) == rows[:20]


def test_a_kill_while_metrics_are_rewritten_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    path = tmp_path / "metrics.jsonl"
    rows = [{"event": "train", "step": step} for step in (1, 2, 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flushed: list[int] = []

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(os, "fsync", flushed.append)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os if name == "fsync" else Path, name, kill)
            with pytest.raises(Killed):
                MetricsWriter(tmp_path, 2)
        assert read_metrics(tmp_path) == rows
        assert [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]
    MetricsWriter(tmp_path, 2).close()
    assert read_metrics(tmp_path) == rows[:2]
    assert len(flushed) >= 2, "the file and its folder"


def test_an_error_says_which_file_it_is_about(tmp_path: Path) -> None:
    said = f"No space left on device: '{tmp_path}/file'"
    with pytest.raises(OSError, match=said), naming(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="other"), naming(tmp_path):
        raise OSError(28, "No space left on device", "other")
