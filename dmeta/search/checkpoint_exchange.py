"""Where a trial trains and what it starts from: its own folder, or a checkpoint from Tune."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ray import tune

from dmeta.addresses import last_part, within
from dmeta.runs.checkpoint import (
    Checkpoint,
    last_checkpoint,
    open_checkpoints,
    steps_in,
    write_checkpoint,
)
from dmeta.runs.folder import RUN_FILES, RunPlace, run_place, training_at
from dmeta.runs.layout import CONFIG
from dmeta.runs.lock import RunLocked, only_one_in
from dmeta.search.trial_reports import REPORTS
from dmeta.training.results import write_json
from dmeta.training.resume import read_settings

TRIAL_FILES = (*RUN_FILES, REPORTS)
"""What is needed of a trial's folder to go on."""

_ORIGIN = "origin.json"
_LOCK_S = 10.0  # a folder's last owner is given so long to leave it


@dataclass(frozen=True)
class Handed:
    """A checkpoint that Tune hands over.

    Attributes:
        checkpoint: it.
        folder: name of the folder of the run that it is of.
        digest: of that run's settings.
    """

    checkpoint: Checkpoint
    folder: str
    digest: str


def handed_over() -> Handed | None:
    """What Tune wants this trial to go on from."""
    given = tune.get_checkpoint()
    if given is None:
        return None
    with given.as_directory() as folder:
        storage = open_checkpoints(Path(folder), None)
        checkpoint, _ = last_checkpoint(storage, steps_in(storage))
        origin = json.loads((Path(folder) / _ORIGIN).read_text())
    return Handed(checkpoint, str(origin["folder"]), str(origin["settings"]))


def write_handover(folder: Path, place: RunPlace, checkpoint: Checkpoint, digest: str) -> None:
    """Write what Tune keeps of a checkpoint: a run's folder, as `dmeta.load` reads it."""
    write_checkpoint(open_checkpoints(folder, None), checkpoint.state, checkpoint.progress)
    content = read_settings(place.folder, place.name)
    # What is handed over has its checkpoint in the same folder, wherever the run's own are.
    content["settings"]["checkpoint"]["location"] = None
    write_json(folder / CONFIG, content)
    write_json(folder / _ORIGIN, {"folder": last_part(place.name), "settings": digest})


@contextlib.contextmanager
def own_folder(
    digest: str, trials: str, handed: Handed | None
) -> Iterator[tuple[RunPlace, Checkpoint | None]]:
    """The folder of a trial's run, locked, and the checkpoint with which it begins if it is new.

    Args:
        digest: of its settings.
        trials: where the folders are, a path or an address.
        handed: what Tune handed over.
    """
    first, name = None, digest[:16]
    if handed is not None:
        first, name = handed.checkpoint, handed.folder
        if handed.digest != digest:  # a run that goes on from another's state is a third one
            parts = digest, handed.folder, json.dumps(first.progress, sort_keys=True)
            name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    patience = time.monotonic() + _LOCK_S
    number = 1
    while True:
        # The same settings, drawn twice, and both at work: the same bits, in two folders.
        folder = within(trials, name if number == 1 else f"{name}-{number}")
        with contextlib.ExitStack() as stack:
            try:
                place = stack.enter_context(run_place(folder, TRIAL_FILES))
                stack.enter_context(training_at(place))
                stack.enter_context(only_one_in(place.folder))
            except RunLocked:
                if time.monotonic() < patience:
                    time.sleep(0.2)
                else:
                    number += 1
                continue
            yield place, first
            return
