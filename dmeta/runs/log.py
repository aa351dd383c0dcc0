"""`log.jsonl`: the warnings of a run, its starts and its ends, as JSON, one object per line.

Every line has ``time`` (UTC), ``level``, ``run`` (`RunConfig.run_id`), ``logger`` and ``message``.
A warning also has ``step``, ``phase``, ``block`` and ``worker`` where they are known: they are
given as ``extra`` of the logging call. A beginning or an end has ``event``: ``begun``
(with ``step``, ``host``, ``pid``, ``hardware``, ``runtime`` and ``plan``), ``ended``, ``stopped``
(by a signal, after a step that is kept) or ``failed``; a run that was killed has none. A resumed
run appends.

Warnings are shown as they are without it, by whatever `logging` is set to.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dmeta.runs.files import AppendedFile, is_torn
from dmeta.runs.layout import LOG

_KNOWN = ("step", "phase", "block", "worker")


@contextlib.contextmanager
def run_log(run_dir: Path, run_id: str, begun: Mapping[str, Any]) -> Iterator[None]:
    """Write what `dmeta` warns of in this process, and how it ends.

    Args:
        run_dir: of the run.
        run_id: of the run.
        begun: plain data to write of the beginning, its ``step`` among them.
    """
    with _lines(run_dir, run_id) as handler:
        try:
            here = {"host": socket.gethostname(), "pid": os.getpid()}
            handler.write("INFO", "begun", {"event": "begun", **begun, **here})
            yield
            handler.write("INFO", "ended", {"event": "ended"})
        except Exception as error:
            handler.write("ERROR", f"{type(error).__name__}: {error}", {"event": "failed"})
            raise
        except BaseException as stop:
            handler.write("INFO", str(stop) or "interrupted", {"event": "stopped"})
            raise


@contextlib.contextmanager
def warnings_logged(run_dir: Path, run_id: str) -> Iterator[None]:
    """Write what `dmeta` warns of after the end of a run, while figures are drawn say."""
    with _lines(run_dir, run_id):
        yield


@contextlib.contextmanager
def _lines(run_dir: Path, run_id: str) -> Iterator[_Lines]:
    handler = _Lines(run_dir / LOG, run_id)
    logger = logging.getLogger("dmeta")
    handler.others = logger.hasHandlers()
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        handler.close()


class _Lines(logging.Handler):
    def __init__(self, path: Path, run_id: str) -> None:
        super().__init__(logging.WARNING)
        self._file, self._run_id = AppendedFile(path), run_id
        self._writing = False
        self.others = True
        if is_torn(path):  # by a kill: what is appended would be part of that line
            self._file.append(b"\n")

    def emit(self, record: logging.LogRecord) -> None:
        if not self.others and logging.lastResort is not None:
            logging.lastResort.handle(record)  # which Python leaves out once there is a handler
        known = {key: getattr(record, key) for key in _KNOWN if hasattr(record, key)}
        self.write(record.levelname, record.getMessage(), known, record.name)

    def write(
        self, level: str, message: str, more: Mapping[str, Any], logger: str = __name__
    ) -> None:
        if self._writing:  # that this file cannot be written to is not for this file to say
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "level": level, "run": self._run_id, "logger": logger}
        self._writing = True
        try:
            self._file.append((json.dumps({**line, **more, "message": message}) + "\n").encode())
        finally:
            self._writing = False

    def close(self) -> None:
        self._file.close()
        super().close()
