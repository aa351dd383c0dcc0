"""The state of a run, read from its files, during or after it. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmeta.addresses import is_address, within
from dmeta.formatting import digits, duration, score
from dmeta.quoting import override_word
from dmeta.runs.checkpoint import checkpoint_name, open_checkpoints, steps_in
from dmeta.runs.declared_metrics import declared_metrics
from dmeta.runs.last_rows import last_rows, last_session, pace_of
from dmeta.runs.layout import CHECKPOINTS, CONFIG, JOINT, LOG, METRICS, RESULTS, SEARCH
from dmeta.runs.liveness import Judgement, RunState, Signs, is_here, judge, locked, silent_s
from dmeta.runs.lock import is_locked
from dmeta.runs.records import RUN_RESULTS, SETTINGS, read_record
from dmeta.runs.remote_status import Afar

_SILENT_ROWS = 5  # such a line is missing so many times before a run is thought to be gone


@dataclass(frozen=True)
class RunStatus:
    """A run as its files show it; None for what they do not say (yet).

    Attributes:
        run_dir: its folder.
        run: its id, as in log.jsonl and in Prometheus.
        state: whether it goes on.
        why: how that is known, or what it failed with.
        step: outer steps done, as far as that was written.
        steps: outer steps that it is to have.
        tasks_per_second: of the last line of metrics.
        eta_s: seconds to the last step, at the pace of the last lines; evaluations included.
        silent_s: seconds since something was written.
        metric: the primary one.
        unit: of it.
        train: the last line of training metrics.
        val: the last validation, with its 95% confidence interval and the best step so far.
        tests: of a finished run, what it was tested on (name of the task source, or of one in
            ``eval.task``) -> split, num_tasks, and mean and ci95 of the metric (transductive).
        checkpoint_step: of the last checkpoint.
        checkpoint_age_s: seconds since it was written; of one on a disk.
        retried_blocks: computed again because a worker was lost.
        copied_blocks: computed twice because a worker was late.
        rejected_steps: whose meta-gradient was not applied.
        began: when (UTC), where, on what hardware and by whom the last session computes.
        skipped_lines: of the files, as far as they were read, that are no rows of a run's.
    """

    run_dir: str
    run: str | None
    state: RunState
    why: str
    step: int
    steps: int | None
    tasks_per_second: float | None
    eta_s: float | None
    silent_s: float | None
    metric: str
    unit: str
    train: Mapping[str, Any] | None
    val: Mapping[str, Any] | None
    tests: Mapping[str, Mapping[str, Any]]
    checkpoint_step: int | None
    checkpoint_age_s: float | None
    retried_blocks: int
    copied_blocks: int
    rejected_steps: int
    began: Mapping[str, Any] | None
    skipped_lines: int

    @property
    def mark(self) -> object:
        """Changes when there is something new, and not as time goes by."""
        return self.state, self.train, self.val, self.checkpoint_step, self.began

    def lines(self) -> list[str]:
        """The same for people."""
        return [
            f"{self.run_dir}: {self.state}" + (f" ({self.why})" if self.why else ""),
            *(f"{name:<11}{text}" for name, text in self._parts() if text),
        ]

    def _parts(self) -> list[tuple[str, str]]:
        age = "" if self.checkpoint_age_s is None else f", {duration(self.checkpoint_age_s)} ago"
        ended = self.state in ("stopped", "failed") and self.checkpoint_step is not None
        kept = "" if self.checkpoint_step is None else f"step {self.checkpoint_step}{age}"
        where = override_word("run_dir", self.run_dir)
        return [
            ("run", _joined(self.run, _computes(self.began))),
            ("progress", self._progress()),
            ("training", self._train()),
            ("validation", self._val()),
            *(("test", self._test(name, row)) for name, row in self.tests.items()),
            ("checkpoint", kept or "none yet"),
            (
                "faults",
                f"{self.retried_blocks} blocks retried, {self.copied_blocks} duplicated "
                f"(stragglers), {self.rejected_steps} steps rejected",
            ),
            ("hardware", _hardware(self.began)),
            ("left out", _left_out(self.skipped_lines)),
            ("continue", f"dmeta train {where} resume=true" if ended else ""),
        ]

    def _progress(self) -> str:
        if self.steps is None:
            return ""
        share = f"step {self.step}/{self.steps} ({100 * self.step / self.steps:.0f}%)"
        speed = None if self.tasks_per_second is None else f"{digits(self.tasks_per_second, 3)}"
        goes_on = self.state == "running" and self.eta_s is not None and self.step < self.steps
        left = f"{duration(self.eta_s or 0)} left" if goes_on else None
        return _joined(share, speed and f"{speed} tasks/s", left)

    def _train(self) -> str:
        if self.train is None or self.train.get("loss") is None:
            return ""
        return f"loss {digits(self.train['loss'], 3)} at step {self.train['step']}"

    def _val(self) -> str:
        if (row := self.val) is None:
            return ""
        count = row.get("num_non_finite", 0)
        tasks = f"{row['num_tasks']} tasks" + (f", {count} not finite" if count else "")
        return (
            f"{self.metric} {score(self.unit, row[self.metric], row['ci95'])} (95% confidence, "
            f"{tasks}) at step {row['step']}, best at step {row['best_step']}"
        )

    def _test(self, name: str, row: Mapping[str, Any]) -> str:
        return (
            f"{self.metric} {score(self.unit, row['mean'], row['ci95'])} (95% confidence, "
            f"{row['num_tasks']} {row['split']} tasks of {name})"
        )


def run_status(run_dir: Path, afar: Afar | None = None) -> RunStatus:
    """What the files of a run say.

    Args:
        run_dir: its folder, or one with copies of its files.
        afar: of a run at an address.

    Raises:
        ValueError: one of them is damaged.
    """
    config = read_record(run_dir / CONFIG, SETTINGS) or {}
    settings: Mapping[str, Any] = config.get("settings", {})
    metric = declared_metrics(config)[0]
    trains, val, bad_rows = last_rows(run_dir, metric.name)
    train = trains[0] if trains else None
    event, began, bad_lines = last_session(run_dir)
    kept, age = _last_checkpoint(run_dir, settings, afar)
    step = max([kept or 0, *(row["step"] for row in (train, val) if row is not None)])
    pace, longest = pace_of(trains)
    results = _results(run_dir, settings)
    is_tested = results is not None
    state, why = _judged(run_dir, is_tested, settings, event or {}, began or {}, longest, afar)
    steps = settings.get("steps")
    counts = train or {}
    return RunStatus(
        run_dir=str(run_dir) if afar is None else afar.address,
        run=(began or {}).get("run"),
        state=state,
        why=why,
        step=step,
        steps=steps,
        tasks_per_second=counts.get("tasks_per_second"),
        eta_s=None if pace is None or steps is None else pace * (steps - step),
        silent_s=silent_s(run_dir),
        metric=metric.name,
        unit=metric.unit,
        train=train,
        val=val,
        tests=_tests(results or {}),
        checkpoint_step=kept,
        checkpoint_age_s=age,
        retried_blocks=counts.get("retried_blocks", 0),
        copied_blocks=counts.get("copied_blocks", 0),
        rejected_steps=counts.get("rejected", 0),
        began=began,
        skipped_lines=bad_rows + bad_lines,
    )


def _judged(
    run_dir: Path,
    is_tested: bool,
    settings: Mapping[str, Any],
    event: Mapping[str, Any],
    began: Mapping[str, Any],
    longest_s: float,
    afar: Afar | None,
) -> Judgement:
    """Whether it goes on; `longest_s` is the longest time between two of the last lines."""
    what = event.get("event")
    signs = Signs(
        locked=locked(run_dir) if afar is None else afar.lives,
        here=is_here(began) if afar is None else True,  # a mark is seen from everywhere
        silent_s=silent_s(run_dir),
        begun=bool(settings),
        through=is_tested or _is_trial_through(run_dir, what, afar),
        failure=event.get("message", "") if what == "failed" else None,
        patience_s=max(Signs.patience_s, _SILENT_ROWS * longest_s),
    )
    state, why = judge(signs)
    if state == "stopped" and what == "stopped":
        why = event.get("message", "").removeprefix("stopped ")
    if state == "running" and _compares(run_dir):
        why = f"training the network to compare it with, {why}"
    return Judgement(state, why)


def _compares(run_dir: Path) -> bool:
    """Whether the joint baseline is being trained."""
    return (run_dir / JOINT).is_dir() and is_locked(run_dir / JOINT) is True


def _results(run_dir: Path, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The results of all steps that a run is to have; None: there are none (yet)."""
    results = read_record(run_dir / RESULTS, RUN_RESULTS)
    if results is None or results["training"]["steps"] < settings.get("steps", 0):
        return None
    return results


def _tests(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """See `RunStatus.tests`."""
    own = {results.get("task", "its own"): results["test"]} if "test" in results else {}
    others = {name: each["test"] for name, each in results.get("other_tasks", {}).items()}
    found: dict[str, Mapping[str, Any]] = {}
    for name, test in (*own.items(), *others.items()):
        mean, ci95 = (test["transductive"][key][-1:] for key in ("mean", "ci95"))
        if mean and ci95:
            shown = f"{name} (eval.task)" if name in found else name
            found[shown] = {
                "split": test["split"],
                "num_tasks": test["num_tasks"],
                "mean": mean[0],
                "ci95": ci95[0],
            }
    return found


def _is_trial_through(run_dir: Path, event: str | None, afar: Afar | None) -> bool:
    """Whether it is a trial of a search, which has no results of its own, and has ended."""
    if afar is None:
        is_trial = (run_dir.absolute().parent.parent / SEARCH).exists()
    else:
        is_trial = afar.is_trial
    return is_trial and event == "ended"


def _last_checkpoint(
    run_dir: Path, settings: Mapping[str, Any], afar: Afar | None
) -> tuple[int | None, float | None]:
    """Step and age of the last checkpoint; None: there is none, or it is not in reach of a look."""
    location = settings.get("checkpoint", {}).get("location")
    if location is not None and is_address(location):
        return None, None
    if location is None and afar is not None:
        location = within(afar.address, CHECKPOINTS)
    storage = open_checkpoints(run_dir, location)
    steps = steps_in(storage)
    if not steps:
        return None, None
    path = Path(storage.locate(checkpoint_name(steps[-1])))
    return steps[-1], time.time() - path.stat().st_mtime if path.exists() else None


def _left_out(count: int) -> str:
    lines = "line" if count == 1 else "lines"
    return f"{count} {lines} of {METRICS} or {LOG} that dmeta did not write" if count else ""


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _computes(began: Mapping[str, Any] | None) -> str | None:
    if began is None:
        return None
    runtime = began["runtime"]
    workers = f"{runtime['num_workers']} worker" + "s" * (runtime["num_workers"] != 1)
    where = f"{runtime['name']}, {workers} on {runtime['device']}"
    return f"process {began['pid']} of {began['host']} since {began['time'][:19]} UTC ({where})"


def _hardware(began: Mapping[str, Any] | None) -> str:
    if began is None:
        return ""
    hardware = began["hardware"]
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    return f"{hardware['cpu']}, {hardware['cpu_count']} CPUs, {gpus} (of the driver)"
