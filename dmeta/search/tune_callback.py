"""Passes on the progress of a search as rows, at most every second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial

from dmeta.runs.folder import RunPlace
from dmeta.runs.layout import TRIALS, TRIALS_TABLE
from dmeta.search.space import Space, Value, has_key, resolved_point
from dmeta.search.trial_reports import ScoreMode
from dmeta.search.trials import TrialRow, ranked_trials, read_numbers, row_of, write_table
from dmeta.search.user_objects import Configure
from dmeta.training.nonfatal import guarded

_EVERY_S, _PUSH_EVERY_S = 1.0, 20.0


class Watcher(Protocol):
    """Receives the progress of a search. It must not change the search."""

    def on_trials(self, rows: Sequence[TrialRow], best: TrialRow | None) -> None:
        """All trials, as they stand, and the best of them so far."""
        ...

    def on_phase(self, what: str) -> None:
        """The search turns to something else than its trials."""
        ...


class Watch(Callback):
    """Keeps the table of trials, on disk and for the watchers.

    Attributes:
        rows: of all trials, as they stand.
        ranked: those with a score, the best first.
    """

    def __init__(
        self,
        space: Space,
        configure: Configure,
        mode: ScoreMode,
        place: RunPlace,
        watchers: Sequence[Watcher],
    ) -> None:
        """Knows nothing yet.

        Args:
            space: that is searched.
            configure: makes settings of a point.
            mode: which way scores are better.
            place: of the search.
            watchers: to be called.
        """
        self._searched, self._configure, self._mode = space.searched(), configure, mode
        self._place, self._watchers = place, guarded(watchers)
        self._path, self._folder = place.folder / TRIALS_TABLE, place.locate(TRIALS)
        self._at = self._pushed_at = 0.0
        self._trials: Sequence[Trial] = ()
        self._numbers = read_numbers(self._path)
        self._points: dict[str, Mapping[str, Value]] = {}
        self.rows: list[TrialRow] = []
        self.ranked: list[TrialRow] = []

    def on_trial_start(
        self,
        iteration: int,  # noqa: ARG002 - Tune's
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        **info: Any,  # noqa: ARG002
    ) -> None:
        """See Tune; its HParams know nothing of a point that was given, as those of a grid are."""
        if not trial.evaluated_params:
            trial.evaluated_params = dict(self._point(trial))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """See Tune."""
        self._trials = trials
        if time.monotonic() - self._at >= _EVERY_S:
            self.take()

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002 - Tune's
        """See Tune, which takes no step where every trial had ended before."""
        self._trials = trials

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune saves its callbacks with the search; a continued one has its own, not the saved.
        return _Nothing, ()

    def take(self) -> None:
        """Look at the trials, and tell."""
        for trial in self._trials:  # a continued search has them in another order
            self._numbers.setdefault(trial.trial_id, len(self._numbers) + 1)
        found = [
            row_of(self._numbers[trial.trial_id], trial, self._folder, self._point(trial))
            for trial in self._trials
        ]
        self.rows = sorted(found, key=lambda row: row.number)
        self.ranked = ranked_trials(self.rows, self._mode)
        write_table(self.rows, self._searched, self._path)
        for watcher in self._watchers:
            watcher.on_trials(self.rows, next(iter(self.ranked), None))
        self._at = time.monotonic()
        if self._at - self._pushed_at >= _PUSH_EVERY_S:
            self._place.push_or_warn()
            self._pushed_at = time.monotonic()

    def _point(self, trial: Trial) -> Mapping[str, Value]:
        """What a trial is to try: values that its settings have no key for left out."""
        if trial.trial_id not in self._points:
            point = resolved_point(trial.config)
            with contextlib.suppress(ValueError):  # the trial will say so itself
                settings = self._configure(point).as_mapping()
                point = {k: value for k, value in point.items() if has_key(settings, k)}
            self._points[trial.trial_id] = point
        return self._points[trial.trial_id]


class _Nothing(Callback):
    """What a saved `Watch` becomes."""
