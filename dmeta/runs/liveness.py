"""Whether a run or a search is still running, judged from its folder on any machine.

Needs neither torch nor Ray: `dmeta status` must answer at once.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from dmeta.formatting import duration
from dmeta.runs.layout import CHECKPOINTS, CONFIG, JOINT, LOG, METRICS, TRIALS_TABLE
from dmeta.runs.lock import is_locked

RunState: TypeAlias = Literal["starting", "running", "finished", "stopped", "failed"]
"""``stopped``: by a signal or a kill; ``resume=true`` goes on."""

_LEAST_PATIENCE_S = 60.0
_LIVING = (METRICS, LOG, CONFIG, CHECKPOINTS, TRIALS_TABLE, f"{JOINT}/{METRICS}", f"{JOINT}/{LOG}")


@dataclass(frozen=True)
class Signs:
    """What can be seen of a run or a search.

    Attributes:
        locked: whether a process of this machine works in the folder; None: the file system does
            not say.
        here: whether it worked on this machine when it began last.
        silent_s: seconds since something was written; None: nothing was.
        begun: whether its settings are there.
        through: whether all of its results are there.
        failure: what the last session failed with.
        patience_s: seconds without a sign of life that are no reason to think that it ended.
    """

    locked: bool | None
    here: bool
    silent_s: float | None
    begun: bool
    through: bool
    failure: str | None
    patience_s: float = _LEAST_PATIENCE_S


class Judgement(NamedTuple):
    """A state, and why it is thought to be that one."""

    state: RunState
    why: str


def judge(signs: Signs) -> Judgement:
    """What the signs mean."""
    silent = "" if signs.silent_s is None else f"last sign of life {duration(signs.silent_s)} ago"
    if signs.locked:
        return Judgement("running" if signs.begun else "starting", silent)
    if signs.through:
        return Judgement("finished", "")
    if signs.failure is not None:
        return Judgement("failed", signs.failure)
    if signs.here and signs.locked is False:
        return Judgement("stopped", "no process works in its folder")
    if signs.silent_s is not None and signs.silent_s < signs.patience_s:
        return Judgement("running", f"{silent}; its lock cannot be seen from this machine")
    return Judgement("stopped", f"{silent}, and no lock that this machine sees")


def locked(run_dir: Path) -> bool | None:
    """Whether a process of this machine trains the run, or the network to compare it with."""
    folders = [folder for folder in (run_dir, run_dir / JOINT) if folder.is_dir()]
    found = [is_locked(folder) for folder in folders]
    return True if True in found else found[0]


def silent_s(run_dir: Path) -> float | None:
    """Seconds since something was written of a run or a search; None: nothing was."""
    paths = [run_dir / name for name in _LIVING]
    times = [path.stat().st_mtime for path in paths if path.exists()]
    return max(0.0, time.time() - max(times)) if times else None


def is_here(beginning: Mapping[str, Any]) -> bool:
    """Whether it was on this machine that a run began."""
    return beginning.get("host") == socket.gethostname()
