"""Writes checkpoints while training continues: a step never waits for a disk or a network.

One thread, so that checkpoints are written one after the other, in the order of their steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dmeta.runs.checkpoint import prune_checkpoints, write_checkpoint
from dmeta.runs.storage import Storage
from dmeta.runtime.messages import ServerState

_LOG = logging.getLogger(__name__)

GetState = Callable[[], ServerState]
"""Waits for the server's state and returns it."""


class CheckpointWriter:
    """Writes, and prunes what it wrote before. A context manager: leaving it waits for the last.

    A checkpoint that cannot be written (the disk is full, say) causes a warning, and training
    continues: earlier checkpoints are unchanged, and another one will be due.
    """

    def __init__(self, storage: Storage, keep: int) -> None:
        """Write to `storage`, where the last `keep` are kept."""
        self._storage, self._keep = storage, keep
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether the one before is still being written."""
        return self._writing is not None and not self._writing.done()

    def begin(self, state: GetState, progress: Mapping[str, Any], best: Collection[int]) -> None:
        """Write a checkpoint soon.

        Args:
            state: of the server; called on another thread.
            progress: plain data to write with it.
            best: steps whose checkpoints are kept besides the last ones.
        """
        self._writing = self._thread.submit(self._write_or_warn, state, progress, best)

    def write(self, state: GetState, progress: Mapping[str, Any], best: Collection[int]) -> None:
        """Write a checkpoint now, after those begun.

        Raises:
            OSError: it cannot be written.
        """
        self._thread.submit(self._write, state, progress, best).result()

    def finish(self) -> None:
        """Wait for what was begun."""
        if self._writing is not None:
            self._writing.result()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)

    def _write(self, state: GetState, progress: Mapping[str, Any], best: Collection[int]) -> None:
        write_checkpoint(self._storage, state(), progress)
        prune_checkpoints(self._storage, self._keep, best)

    def _write_or_warn(
        self, state: GetState, progress: Mapping[str, Any], best: Collection[int]
    ) -> None:
        try:
            self._write(state, progress, best)
        except Exception as error:
            # Of any kind: each storage has its own, and the server may be lost just now.
            _LOG.warning(
                "the checkpoint of step %s was not written (%s: %s); those before are whole, and "
                "the next one that is due will be tried",
                progress.get("step"),
                type(error).__name__,
                error,
                extra={"step": progress.get("step")},
            )
