"""One trial: a whole run, in an actor of Tune, that reports after each validation.

A trial trains in a folder of its own, whose name follows from its settings: wherever and whenever
they are tried again, after a failure or in a search that is continued, the run that is there goes
on from its checkpoint, and what it has reported is reported again. So nothing is computed twice,
however old the state is that Tune went on from.

Where Tune hands over a checkpoint of another run (population based training: other settings, or
another trial's state), the trial goes on from it in a new folder.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from dmeta.addresses import is_address, last_part, within
from dmeta.launch import open_runtime, workplace_of
from dmeta.runs.checkpoint import read_checkpoint, steps_in
from dmeta.runs.folder import RunPlace, run_place, training_at
from dmeta.runs.layout import CONFIG
from dmeta.runs.metrics import Row
from dmeta.runtime.messages import StepReport
from dmeta.runtime.protocol import Workplace
from dmeta.runtime.ray.actors import see_own_gpus
from dmeta.runtime.ray.calls import Ref
from dmeta.runtime.ray.prometheus import Gauges
from dmeta.runtime.threads import torch_threads
from dmeta.search.checkpoint_exchange import handed_over, own_folder, write_handover
from dmeta.search.scheduling import STEP
from dmeta.search.shared_source import SharedSource
from dmeta.search.space import Point, has_key, resolved_point
from dmeta.search.trial_reports import Reports, TrialReport
from dmeta.search.user_objects import Configure, Own
from dmeta.tasks.source import TaskSource
from dmeta.training.autotune import selection
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import Evaluation
from dmeta.training.loop import TrainingStopped, is_validated, train_steps
from dmeta.training.model_evaluation import FinalEvaluation, evaluate_tasks
from dmeta.training.other_tasks import with_other_tasks
from dmeta.training.resume import StartingPoint, placed_at, read_settings, starting_point
from dmeta.training.run import Draw, open_run, run_session
from dmeta.training.session import Session
from dmeta.training.setup import Run, prepare

"""The folder of the trials' runs, in that of the search."""

_NONE = Own()

_THREAD_S = "TUNE_FUNCTION_THREAD_TIMEOUT_S"


@dataclass(frozen=True)
class TrialSetup:
    """What all trials share.

    Attributes:
        configure: makes settings of a point.
        folder: of the trials' folders, a path or an address; every node sees it.
        sources: key of a task source (`source_key`) -> it, in the object store.
        working_dir: of the search: what paths in the settings are relative to.
        own: the user's own objects; its source is one of `sources`.
        draw: draws the run of the best settings, if that is trained again.
    """

    configure: Configure
    folder: str
    sources: Mapping[str, Ref]
    working_dir: Path
    own: Own = _NONE
    draw: Draw | None = None

    def source(self, settings: RunConfig) -> TaskSource | None:
        """The task source that settings name, if it is in the object store."""
        ref = self.sources.get(source_key(settings))
        shared: Any = None if ref is None else SharedSource(ref)
        source: TaskSource | None = shared
        return source


def source_key(config: RunConfig) -> str:
    """Equal for settings with the same task source."""
    return json.dumps(dataclasses.asdict(config.task.source), sort_keys=True)


def run_trial(config: Point, *, setup: TrialSetup) -> None:
    """What Tune calls, in the trial's actor.

    Args:
        config: the trial's point.
        setup: what all trials share.
    """
    os.environ.setdefault(_THREAD_S, "20")  # to close the runtime, before the next trial comes
    logging.getLogger("ray").setLevel(logging.WARNING)  # it tells of every checkpoint
    _enter(setup)
    handed = handed_over()
    point = resolved_point(config)
    settings = setup.configure(point)
    digest = settings_digest(settings)
    with (
        own_folder(digest, setup.folder, handed) as (place, first),
        workplace_of(placed(settings, place.name)) as workplace,
    ):
        here = placed(settings, place.name)
        run = ready(here, place, workplace, setup.source(settings), setup.own)
        start = starting_point(run.config, place.folder, first, place.mirror)
        plain = settings.as_mapping()
        tried = {key: value for key, value in point.items() if has_key(plain, key)}
        metric = run.metrics[0].declaration
        reports = Reports(run.config, place.folder, metric, tried, start.progress.step)
        reported_to = handed.checkpoint.step if handed is not None else 0
        try:
            _report(_Teller(run, place, start, reports, digest), reported_to, workplace)
        finally:
            reports.close()


def evaluate_trial(settings: RunConfig, setup: TrialSetup) -> FinalEvaluation:
    """Train a run to its last step, if it is not there, and evaluate it on test tasks.

    Args:
        settings: its run_dir among them.
        setup: what all trials share.

    Raises:
        TrainingStopped: its numbers diverge on the way.
    """
    _enter(setup)
    assert settings.run_dir is not None
    with run_place(settings.run_dir) as place, workplace_of(settings) as workplace:
        run = ready(settings, place, workplace, setup.source(settings), setup.own)
        run = with_other_tasks(run)
        opened = functools.partial(open_runtime, workplace=workplace)
        with training_at(place):
            session = Session(run, place.folder, opened, mirror=place.mirror)
            result = run_session(session, draw=setup.draw)
            return FinalEvaluation(result.test, result.other_tests)


def _enter(setup: TrialSetup) -> None:
    """Be where paths in the settings are relative to, from where Tune had gone; see own GPUs."""
    see_own_gpus()
    if setup.working_dir.is_dir():
        os.chdir(setup.working_dir)
    if not (is_address(setup.folder) or Path(setup.folder).is_dir()):
        raise ValueError(
            f"every node must see the search's run_dir, got a node without {setup.folder}; choose "
            "a run_dir on a storage that all of them share, or an address"
        )


def placed(settings: RunConfig, run_dir: str) -> RunConfig:
    """Settings of a trial in its folder; its checkpoints apart from those of others."""
    location = settings.checkpoint.location
    if location is not None:
        location = within(location, last_part(run_dir))
    settings = dataclasses.replace(
        settings,
        run_dir=run_dir,
        resume="auto",
        checkpoint=dataclasses.replace(settings.checkpoint, location=location),
    )
    return placed_at(settings, run_dir) if is_address(run_dir) else settings


def ready(
    settings: RunConfig,
    place: RunPlace,
    workplace: Workplace,
    source: TaskSource | None = None,
    own: Own = _NONE,
) -> Run:
    """A trial's run, with the plan that it was begun with if it is there already.

    Args:
        settings: of the trial.
        place: its folder.
        workplace: where it computes.
        source: what the settings name, where it was made before.
        own: the user's own objects, besides the source.
    """
    is_begun = (place.folder / CONFIG).exists()
    begun = read_settings(place.folder, place.name)["settings"] if is_begun else None
    with torch_threads(settings.compute.threads_per_worker):
        run = prepare(settings, data=source, **own.parts)
    return selection.with_selection(run, begun, workplace)


def _report(teller: _Teller, reported_to: int, workplace: Workplace) -> None:
    """Report what was reported before, but not to this Tune, then train on."""
    for report in [each for each in teller.reports.there if each[STEP] > reported_to]:
        teller.tell(report)
    run, start = teller.run, teller.start
    step, config = start.progress.step, run.config
    reported = step == reported_to or any(each[STEP] == step for each in teller.reports.there)
    if step == config.steps and reported:
        return
    try:
        task, metric = config.task.source.name, run.metrics[0].name
        gauges = Gauges(config.run_id, config.algorithm.name, task, metric)
        opened = functools.partial(open_runtime, workplace=workplace)
        session = Session(run, teller.place.folder, opened, (teller, gauges))
        with open_run(session, start) as runtime:
            teller.place.push()  # the settings: there is a run now
            teller.start_clock()
            if step > 0 and is_validated(step, config) and not reported:
                # It was lost between its checkpoint and its report.
                teller.validated(evaluate_tasks(run, runtime, "val", config.eval.val_tasks, step))
            train_steps(session, start, runtime, on_validated=teller.validated)
        teller.conclude()
    except TrainingStopped:
        teller.diverged()


class _Teller:
    """Reports to Tune; an `Observer`, to know how far the run is."""

    def __init__(
        self, run: Run, place: RunPlace, start: StartingPoint, reports: Reports, digest: str
    ) -> None:
        self.run, self.place, self.start, self.reports = run, place, start, reports
        self._digest = digest
        self._last: TrialReport | None = None
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
        """Tell of it; at the last step only when the run is over (`conclude`)."""
        report = self.reports.add(evaluation, self._seconds())
        self.place.push_or_warn()
        if report["status"] == "running":
            self.tell(report)
        else:
            self._last = report

    def conclude(self) -> None:
        """Tell of the last validation: Tune does not wait for what a trial does after that."""
        if self._last is not None:
            self.place.push_or_warn()
            self.tell(self._last)

    def diverged(self) -> None:
        tune.report({**self.reports.diverged(self._step + 1, self._seconds()), "done": True})

    def tell(self, report: TrialReport) -> None:
        """With the checkpoint of its step, if that is still there."""
        # At its end it is no scheduler's any more: population based training would replace it.
        report = {**report, "done": report["status"] != "running"}
        if report[STEP] not in steps_in(self.start.storage):
            tune.report(report)
            return
        checkpoint = read_checkpoint(self.start.storage, report[STEP])
        with tempfile.TemporaryDirectory() as folder:
            write_handover(Path(folder), self.place, checkpoint, self._digest)
            tune.report(report, checkpoint=tune.Checkpoint.from_directory(folder))

    def _seconds(self) -> float:
        return self.start.progress.seconds + time.perf_counter() - self._began


def settings_digest(config: RunConfig) -> str:
    """Equal for settings that mean the same run, wherever it lies and however it was begun.

    For how many steps is part of it only where the outer rate depends on that: a longer run goes on
    from a shorter one.
    """
    plain = config.as_mapping()
    if config.eval.metrics is None:  # runs of earlier versions have no such key
        plain["eval"].pop("metrics")
    for group, keys in _CHOSEN_LATER.items():
        plain[group] = {k: v for k, v in plain[group].items() if k not in keys}
    left_out = {"run_dir", "resume"}
    if config.outer.schedule == "constant":
        left_out.add("steps")
    compared = {key: v for key, v in plain.items() if key not in left_out}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()


_CHOSEN_LATER = {
    "compute": ("plan", "chunk_size"),
    "runtime": ("address", "allow_unauthenticated"),
}
