"""One trial: a whole run, in an actor of Tune's, that reports after each validation.

A trial trains in a folder of its own, whose name follows from its settings: wherever and whenever
they are tried again, after a failure or in a search that is continued, the run that is there goes
on from its checkpoint, and what it has reported is reported again. So nothing is computed twice,
however old the state is that Tune went on from.

Where Tune hands over a checkpoint of another run (population based training: other settings, or
another trial's state), the trial goes on from it in a new folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ray import tune

from dmeta.runtime import make_runtime
from dmeta.runtime.protocol import Runtime, StepReport
from dmeta.runtime.remote import Ref
from dmeta.runtime.threads import torch_threads
from dmeta.search.reports import Report, Reports
from dmeta.search.scheduling import STEP
from dmeta.search.sharing import SharedSource
from dmeta.search.space import Point, has_key, settled
from dmeta.tasks.source import TaskSource
from dmeta.training.budget import within_budget
from dmeta.training.checkpoint import (
    Checkpoint,
    last_checkpoint,
    open_checkpoints,
    read_checkpoint,
    steps_in,
    write_checkpoint,
)
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import Evaluation
from dmeta.training.loop import TrainingStopped
from dmeta.training.metrics import Row
from dmeta.training.planning import planned
from dmeta.training.results import write_json
from dmeta.training.run_lock import RunLocked, only_one_in
from dmeta.training.session import begin, take_steps
from dmeta.training.setup import Run, prepare
from dmeta.training.starting import CONFIG, StartingPoint, read_settings, starting_point

Configure: TypeAlias = Callable[[Mapping[str, Any]], RunConfig]
"""Settled point -> settings of a run. Keys that these do not have are left out; can be pickled."""

_ORIGIN = "origin.json"
_LOCK_S = 10.0  # a folder's last owner is given so long to leave it
_THREAD_S = "TUNE_FUNCTION_THREAD_TIMEOUT_S"


@dataclass(frozen=True)
class TrialSetup:
    """What all trials share.

    Attributes:
        configure: makes settings of a point.
        folder: of the trials' folders; every node sees it.
        sources: key of a task source (`source_key`) -> it, in the object store.
        working_dir: of the search: what paths in the settings are relative to.
    """

    configure: Configure
    folder: Path
    sources: Mapping[str, Ref]
    working_dir: Path


def source_key(config: RunConfig) -> str:
    """Equal for settings with the same task source."""
    return json.dumps(dataclasses.asdict(config.task.source), sort_keys=True)


def open_runtime(run: Run) -> Runtime:
    """The runtime of a trial."""
    config = run.config
    return make_runtime(config.runtime, run.work, run.outer, config.device, config.num_blocks)


def run_trial(config: Point, *, setup: TrialSetup) -> None:
    """What Tune calls, in the trial's actor.

    Args:
        config: the trial's point.
        setup: what all trials share.
    """
    os.environ.setdefault(_THREAD_S, "20")  # to close the runtime, before the next trial comes
    logging.getLogger("ray").setLevel(logging.WARNING)  # it tells of every checkpoint
    if setup.working_dir.is_dir():
        os.chdir(setup.working_dir)  # Tune had gone elsewhere
    handed = _handed_over()
    settings = setup.configure(settled(config))
    digest = digest_of(settings)
    if not setup.folder.is_dir():
        raise ValueError(
            f"every node must see the search's run_dir, got a node without {setup.folder}; choose "
            "a run_dir on a storage that all of them share"
        )
    told = handed.checkpoint.step if handed is not None else 0
    with _folder(digest, setup.folder, handed) as (run_dir, first):
        settings = dataclasses.replace(settings, run_dir=str(run_dir), resume="auto")
        ref = setup.sources.get(source_key(settings))
        source: Any = None if ref is None else SharedSource(ref)
        run = ready(settings, source)
        start = starting_point(run.config, run_dir, first)
        plain = settings.as_mapping()
        point = {key: value for key, value in settled(config).items() if has_key(plain, key)}
        reports = Reports(run.config, run.source.kind, point, start.progress.step)
        teller = _Teller(run, start, reports, digest)
        try:
            for report in [each for each in reports.there if each[STEP] > told]:
                teller.tell(report)
            if start.progress.step < run.config.steps:
                _train(run, start, teller)
        finally:
            reports.close()


@dataclass(frozen=True)
class _Handed:
    """A checkpoint that Tune hands over, and the run that it is of."""

    checkpoint: Checkpoint
    run_dir: Path
    digest: str


def ready(settings: RunConfig, source: TaskSource | None = None) -> Run:
    """A trial's run, with the plan that it was begun with if it is there already.

    Args:
        settings: its run_dir among them.
        source: what these name, where it was made before.
    """
    assert settings.run_dir is not None
    run_dir = Path(settings.run_dir)
    with torch_threads(settings.runtime.threads_per_worker):
        begun = read_settings(run_dir)["settings"] if (run_dir / CONFIG).exists() else None
        return planned(within_budget(prepare(settings, data=source)), begun)


def _train(run: Run, start: StartingPoint, teller: _Teller) -> None:
    assert run.config.run_dir is not None
    run_dir = Path(run.config.run_dir)
    try:
        with begin(run, run_dir, start, open_runtime, []) as runtime:
            teller.start_clock()
            take_steps(run, run_dir, start, runtime, [teller], on_validated=teller.validated)
    except TrainingStopped:
        teller.diverged()


class _Teller:
    """Reports to Tune; an `Observer`, to know how far the run is."""

    def __init__(self, run: Run, start: StartingPoint, reports: Reports, digest: str) -> None:
        self._run, self._start, self._reports, self._digest = run, start, reports, digest
        self._began, self._step = time.perf_counter(), start.progress.step

    def start_clock(self) -> None:
        """The steps begin: what went before is not counted."""
        self._began = time.perf_counter()

    def on_row(self, row: Row) -> None:
        """Is in the run's own files."""

    def on_phase(self, what: str) -> None:
        """Of no interest."""

    def on_step(self, step: int, report: StepReport) -> None:  # noqa: ARG002 - an observer's
        self._step = step

    def validated(self, evaluation: Evaluation) -> None:
        self.tell(self._reports.add(evaluation, self._seconds()))

    def diverged(self) -> None:
        tune.report({**self._reports.diverged(self._step + 1, self._seconds()), "done": True})

    def tell(self, report: Report) -> None:
        """With the checkpoint of its step, if that is still there."""
        # At its end it is no scheduler's any more: population based training would replace it.
        report = {**report, "done": report["status"] != "running"}
        if report[STEP] not in steps_in(self._start.storage):
            tune.report(report)
            return
        checkpoint = read_checkpoint(self._start.storage, report[STEP])
        with tempfile.TemporaryDirectory() as folder:
            _write_handover(Path(folder), self._run.config, checkpoint, self._digest)
            tune.report(report, checkpoint=tune.Checkpoint.from_directory(folder))

    def _seconds(self) -> float:
        return self._start.progress.seconds + time.perf_counter() - self._began


def _write_handover(folder: Path, config: RunConfig, checkpoint: Checkpoint, digest: str) -> None:
    """Write what Tune keeps of a checkpoint: a run's folder, as `dmeta.load` reads it."""
    assert config.run_dir is not None
    write_checkpoint(open_checkpoints(folder, None), checkpoint.state, checkpoint.progress)
    write_json(folder / CONFIG, read_settings(Path(config.run_dir)))
    write_json(folder / _ORIGIN, {"run_dir": config.run_dir, "settings": digest})


def digest_of(config: RunConfig) -> str:
    """Equal for settings that mean the same run, wherever it lies and however it was begun."""
    plain = config.as_mapping()
    plain["runtime"] = {k: v for k, v in plain["runtime"].items() if k not in _CHOSEN_LATER}
    beside = {key: v for key, v in plain.items() if key not in ("run_dir", "resume")}
    return hashlib.sha256(json.dumps(beside, sort_keys=True).encode()).hexdigest()


_CHOSEN_LATER = ("plan", "chunk_size", "address", "allow_unauthenticated")


def _handed_over() -> _Handed | None:
    """What Tune wants this trial to go on from."""
    given = tune.get_checkpoint()
    if given is None:
        return None
    with given.as_directory() as folder:
        storage = open_checkpoints(Path(folder), None)
        checkpoint, _ = last_checkpoint(storage, steps_in(storage))
        origin = json.loads((Path(folder) / _ORIGIN).read_text())
    return _Handed(checkpoint, Path(origin["run_dir"]), str(origin["settings"]))


@contextlib.contextmanager
def _folder(
    digest: str, folder: Path, handed: _Handed | None
) -> Iterator[tuple[Path, Checkpoint | None]]:
    """The trial's own folder, locked, and the checkpoint with which it begins if it is new."""
    first, base = None, folder / digest[:16]
    if handed is not None:
        first, base = handed.checkpoint, handed.run_dir
        if handed.digest != digest:  # a run that goes on from another's state is a third one
            parts = digest, str(handed.run_dir), json.dumps(first.progress, sort_keys=True)
            base = folder / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    patience = time.monotonic() + _LOCK_S
    number = 1
    while True:
        # The same settings, drawn twice, and both at work: the same bits, in two folders.
        place = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            with only_one_in(place):
                yield place, first
                return
        except RunLocked:
            if time.monotonic() < patience:
                time.sleep(0.2)
            else:
                number += 1
