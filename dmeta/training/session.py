"""One training of a run: the run, its folder, and what starts, watches and stops it.

Knows the runtime only as something it is given a way to open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from dmeta.runs.metrics import Observer
from dmeta.runs.remote_mirror import Mirror
from dmeta.runtime.protocol import Runtime
from dmeta.training.interrupts import Listening, no_interrupts
from dmeta.training.setup import Run

OpenRuntime: TypeAlias = Callable[[Run], Runtime]
"""Starts a runtime for a run; a context manager."""


@dataclass(frozen=True)
class Session:
    """What every part of a training needs.

    Attributes:
        run: what to train.
        run_dir: where to write.
        open_runtime: starts the runtime.
        observers: called as the training progresses, besides the run's own metrics files; their
            exceptions are warnings.
        listening: notes requests to stop.
        mirror: copies `run_dir` elsewhere, before each checkpoint; None: it stays there.
    """

    run: Run
    run_dir: Path
    open_runtime: OpenRuntime
    observers: Sequence[Observer] = ()
    listening: Listening = no_interrupts
    mirror: Mirror | None = None

    def tell(self, what: str) -> None:
        """Tell the observers what the run turns to."""
        for observer in self.observers:
            observer.on_phase(what)
