"""One training under a schedule of faults, from its start to its result.

Like a patient operator: nodes that are gone are replaced, a driver that ended is started again, one
that does not go on is killed first; all of it noted.
"""

from __future__ import annotations

import contextlib
import functools
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.cluster import Cluster, ClusterOptions, Kind, cluster
from tests.chaos.effects import HUNG, Before, Occurrence, rate
from tests.chaos.faults import FAULTS, USUAL, Conditions, Scene
from tests.chaos.processes import Memory, MemoryCurve, command, role_of, started
from tests.chaos.report import Outcome
from tests.chaos.schedule import Event
from tests.chaos.training import Training

STALLED_AFTER_S = 60.0
"""Seconds without a step after which a training is taken to hang."""

_ORPHAN_GRACE_S = 10.0
_AFTERMATH_S = 2.0  # a fault may be felt that much later
_MEND_EVERY_S = 5.0
_START_ALLOWANCE_S = 60.0
_POLL_S = 0.1
_MAX_RESUMES = 3  # in a row without a step
_ENDLESS = 10**7
_LOCAL_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Case:
    """What is tried.

    Attributes:
        title: for the report.
        kind: of the cluster.
        events: the schedule.
        conditions: what the training is started under.
        settings: more of `dmeta train`'s, that decide no bit.
        steps: outer steps; None: as many as the schedule takes, and `settle_s` more.
        settle_s: see `steps`.
        log_every: outer steps between lines of metrics.
        checkpoint_every: outer steps between checkpoints.
        stalled_after_s: seconds without a step after which the driver is killed and resumed.
        seed: of what the faults choose.
    """

    title: str
    kind: Kind
    events: tuple[Event, ...]
    conditions: Conditions = USUAL
    settings: tuple[str, ...] = ()
    steps: int | None = None
    settle_s: float = 5.0
    log_every: int = 1
    checkpoint_every: int = 100
    stalled_after_s: float = STALLED_AFTER_S
    seed: int = 0


def observe(case: Case) -> Outcome:
    """Run a case to its result."""
    conditions = case.conditions
    options = ClusterOptions(
        case.kind,
        object_store_bytes=conditions.object_store_bytes,
        durable_gcs=conditions.durable_gcs,
    )
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(cluster(options))
        folder = stack.enter_context(disk(conditions.disk_bytes))
        memory = stack.enter_context(MemoryCurve())
        training = stack.enter_context(
            Training(
                recipe=conditions.recipe,
                steps=case.steps or _ENDLESS,
                run_dir=folder / "run",
                prefix=(*_limit(conditions.num_files), *made.driver_prefix),
                environment=made.environment,
            )
        )
        return _Observation(case, made, training, memory.points).run()


@contextlib.contextmanager
def disk(size_bytes: int | None) -> Iterator[Path]:
    """A folder, on a small file system of its own if a size is given (that needs root)."""
    with tempfile.TemporaryDirectory(prefix="chaos", ignore_cleanup_errors=True) as name:
        if size_bytes is None:
            yield Path(name)
            return
        command("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "chaos", name)
        try:
            yield Path(name)
        finally:
            command("umount", "--lazy", name)


def _limit(num_files: int | None) -> tuple[str, ...]:
    return () if num_files is None else ("prlimit", f"--nofile={num_files}:{num_files}")


@dataclass
class _Observation:
    case: Case
    cluster: Cluster
    training: Training
    memory: Sequence[Memory]
    occurrences: list[Occurrence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _patient_until_s: float = 0.0  # a start, or the end of a fault, may take until then
    _mended_s: float = 0.0
    _resumes_in_a_row: int = 0

    def run(self) -> Outcome:
        began_s = time.monotonic()
        scene = Scene(self.cluster, self.training, random.Random(self.case.seed))
        self._launch(resume=False)
        self._tend_until(lambda: bool(self.training.rows))
        first_s = time.monotonic()
        for event in self.case.events:
            due = functools.partial(self._is_due, event, first_s)
            self._tend_until(due)
            if self._over:
                self.notes.append(f"{event.fault}: not applied: the training was over")
            else:
                self._apply(event.fault, scene)
        settled_s = time.monotonic() + self.case.settle_s
        self._tend_until(lambda: time.monotonic() >= settled_s)
        faults_end_s = time.monotonic()
        digest, orphans = self._finish()
        rows = self.training.rows
        faults_begin_s = self.occurrences[0].at_s if self.occurrences else faults_end_s
        return Outcome(
            title=self.case.title,
            recipe=self.case.conditions.recipe,
            occurrences=self.occurrences,
            notes=self.notes,
            num_resumes=self.training.num_resumes - (self.case.steps is None),
            steps=self.training.steps,
            digest=digest,
            orphans=orphans,
            undisturbed_steps_per_s=rate(rows, first_s, faults_begin_s),
            disturbed_steps_per_s=rate(rows, faults_begin_s, faults_end_s),
            seconds=_since(began_s),
            memory=list(self.memory),
        )

    @property
    def _over(self) -> bool:
        return self.training.exit_code == 0 or self._gave_up

    @property
    def _gave_up(self) -> bool:
        return self._resumes_in_a_row > _MAX_RESUMES

    def _is_due(self, event: Event, first_s: float) -> bool:
        return event.is_due(self.training.step, _since(first_s))

    def _launch(self, *, resume: bool) -> None:
        address = () if self.cluster.address is None else (self.cluster.address,)
        settings = (
            "runtime=ray",
            "runtime.num_workers=2",
            f"runtime.cpus_per_worker={1 if address else 0.5}",
            *(f"runtime.address={where}" for where in address),
            f"log_every={self.case.log_every}",
            f"checkpoint.every={self.case.checkpoint_every}",
            *self.case.conditions.settings,
            *self.case.settings,
        )
        self._be_patient(_START_ALLOWANCE_S)
        self.training.start(settings, resume=resume)

    def _apply(self, name: str, scene: Scene) -> None:
        fault, training = FAULTS[name], self.training
        assert fault.apply is not None
        before = Before(training, time.monotonic())
        num_notes = len(self.notes)
        try:
            undo = fault.apply(scene)
        except LookupError as error:  # what it acts on is not there just now
            self.notes.append(f"{name}: not applied: {error}")
            return
        if fault.hold_s is not None:
            time.sleep(fault.hold_s)
            undo()
        self._be_patient(0)
        if fault.ends_run and not training.wait(2 * STALLED_AFTER_S):
            self.notes.append("the driver did not end; killed")
            training.signal(signal.SIGKILL)
            training.wait(10)
        over_s = max(time.monotonic(), before.at_s + _AFTERMATH_S)
        self._tend_until(lambda: before.goes_on_after(over_s))
        self.occurrences.append(before.occurrence(name, self.notes[num_notes:]))

    def _tend_until(self, done: Callable[[], bool]) -> None:
        """Keep the training and its cluster going until something is so, or all is over."""
        while not self._over and not done():
            time.sleep(_POLL_S)
            if not self.training.is_running and self.training.exit_code != 0:
                self._resume()
            elif self.training.is_running and self._is_stalled():
                seconds = self.case.stalled_after_s
                self.notes.append(f"{HUNG} within {seconds:g} s; killed and resumed")
                self.training.signal(signal.SIGKILL)
                self.training.wait(10)
            elif _since(self._mended_s) > _MEND_EVERY_S:
                self._mend()

    def _mend(self) -> None:
        try:
            self.cluster.mend()
        except RuntimeError as error:  # a cluster in trouble: tried again
            self.notes.append(str(error)[:300])
        self._mended_s = time.monotonic()

    def _resume(self) -> None:
        self.notes.append(f"ended with {self.training.exit_code}: {self.training.last_words}")
        rows, launched_s = self.training.rows, self.training.launches_s[-1]
        took_steps = bool(rows) and rows[-1].at_s > launched_s
        self._resumes_in_a_row = 1 if took_steps else self._resumes_in_a_row + 1
        if self._over:
            return
        if not self.cluster.works():
            self.notes.append("the cluster was gone; a new one started")
            self.cluster.restart()
        self._launch(resume=True)

    def _be_patient(self, seconds: float) -> None:
        self._patient_until_s = time.monotonic() + seconds

    def _is_stalled(self) -> bool:
        rows = self.training.rows
        last_s = max(self._patient_until_s, rows[-1].at_s if rows else 0.0)
        return _since(last_s) > self.case.stalled_after_s

    def _finish(self) -> tuple[str | None, list[str]]:
        """Digest of the parameters at the end, and what is still there 10 s after the driver."""
        training = self.training
        if self._gave_up:
            self.notes.append(f"given up: it ended {self._resumes_in_a_row} times without a step")
            return None, self._orphans()
        if self.case.steps is None:
            training.signal(signal.SIGTERM)
            if not training.wait(STALLED_AFTER_S):
                self.notes.append("did not end after SIGTERM; killed")
                training.signal(signal.SIGKILL)
                training.wait(10)
            orphans = self._orphans()
            training.steps = training.step + 2 * self.case.log_every  # not below what was done
            training.start(("runtime=local", "log_every=1000"), resume=True)
            training.wait(_LOCAL_DEADLINE_S)
        else:
            self._tend_until(lambda: False)
            orphans = self._orphans()
        result = training.result() if training.exit_code == 0 else None
        if result is None:
            self.notes.append(f"no result: {training.exit_code}: {training.last_words}")
        return (None if result is None else str(result["meta_params_sha256"])), orphans

    def _orphans(self) -> list[str]:
        deadline_s = time.monotonic() + _ORPHAN_GRACE_S
        while left := [p for p in started() if not self.cluster.has(p)]:
            if time.monotonic() > deadline_s:
                break
            time.sleep(_POLL_S)
        return [f"{role_of(process)} {process.pid} ({process.status()})" for process in left]


def _since(moment_s: float) -> float:
    return time.monotonic() - moment_s
