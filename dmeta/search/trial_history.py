"""The history of a search: what every trial reported, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmeta.search.scheduling import SCORE, SCORES, STEP, reports_in
from dmeta.search.trial_reports import ScoreMode, is_better
from dmeta.search.trials import TrialRow


@dataclass(frozen=True)
class Event:
    """A trial's report.

    Attributes:
        number: of the trial.
        step: outer steps it has done.
        tasks: of training, computed for this trial since its report before.
        score: mean over the validation tasks; None if the trial had diverged.
        time: of the clock, seconds.
    """

    number: int
    step: int
    tasks: int
    score: float | None
    time: float


@dataclass(frozen=True)
class BestSoFar:
    """A search just after a report.

    Attributes:
        tasks: of training, computed by all trials until then.
        seconds: since the first report, by the clock: pauses of the search are part of it.
        best: best score until then; None if there is no score yet.
    """

    tasks: int
    seconds: float
    best: float | None


def events_of(rows: Sequence[TrialRow], folder: str) -> list[Event]:
    """All reports that Tune keeps in its folder, by their time.

    What came twice is there once: reported again, or by a trial of settings that another one had.
    """
    numbers = {row.trial_id: row.number for row in rows}
    events: list[Event] = []
    seen: set[tuple[str, int]] = set()
    tasks: dict[int, int] = {}
    for trial_id, report in reports_in(folder):
        number = numbers.get(trial_id)
        if number is None or SCORE not in report or (report["folder"], report[STEP]) in seen:
            continue
        seen.add((report["folder"], report[STEP]))
        # A trial that went on from another's state has not computed the steps of that.
        new = max(0, report["tasks"] - tasks.get(number, 0))
        tasks[number] = report["tasks"]
        when = float(report["timestamp"])
        score = report[SCORE] if report.get(SCORES) else None
        events.append(Event(number, report[STEP], new, score, when))
    return sorted(events, key=lambda event: event.time)


def progress(events: Sequence[Event], mode: ScoreMode) -> list[BestSoFar]:
    """The state of the search after each report.

    Args:
        events: by their time.
        mode: which way scores are better.
    """
    curve: list[BestSoFar] = []
    tasks, best = 0, None
    for event in events:
        tasks += event.tasks
        if event.score is not None and (best is None or is_better(event.score, best, mode)):
            best = event.score
        curve.append(BestSoFar(tasks, event.time - events[0].time, best))
    return curve
