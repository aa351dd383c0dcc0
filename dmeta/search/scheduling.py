"""Which trials continue: Tune's schedulers, and ASHA with a confidence interval."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandForBOHB,
    PopulationBasedTraining,
    TrialScheduler,
)

from dmeta.addresses import is_address
from dmeta.runs.remote_mirror import DistantFolder
from dmeta.search.options import SearchOptions
from dmeta.search.sampling import domain_of
from dmeta.search.space import Interval, Space
from dmeta.training.config import RunConfig
from dmeta.training.intervals import half_width

_LOG = logging.getLogger(__name__)

Scores = npt.NDArray[np.float64]

STEP, SCORE, SCORES = "step", "score", "scores"
"""Of a report: outer steps done, the validation score, and the score of every validation task."""


def scheduler_of(
    space: Space, options: SearchOptions, config: RunConfig, mode: str, folder: str
) -> TrialScheduler:
    """The scheduler that the options name.

    Args:
        space: what is searched.
        options: how.
        config: settings of a trial.
        mode: ``max`` or ``min``: which way scores are better.
        folder: where Tune keeps the reports of the trials, a path or an address.

    Raises:
        ValueError: it cannot be had with this space or these settings.
    """
    if options.scheduler == "asha":
        return _asha(options, config, mode, folder)
    if options.scheduler == "hyperband":
        # In validations: its budgets must be whole numbers of what is reported.
        return _Brackets(
            time_attr="training_iteration",
            max_t=math.ceil(config.steps / config.validation_every),
            reduction_factor=options.reduction,
        )
    if options.scheduler == "pbt":
        return _population(space, options, config)
    return FIFOScheduler()  # type: ignore[no-untyped-call]


def _asha(options: SearchOptions, config: RunConfig, mode: str, folder: str) -> TrialScheduler:
    grace = options.grace_steps or min(config.validation_every, config.steps)
    _check_due("search.grace_steps", grace, config)
    return PairedASHA(
        folder,
        options.keep_possible_best,
        mode,
        time_attr=STEP,
        max_t=config.steps,
        grace_period=grace,
        reduction_factor=options.reduction,
    )


def _population(space: Space, options: SearchOptions, config: RunConfig) -> TrialScheduler:
    perturb = options.perturb_every or min(config.validation_every, config.steps)
    _check_due("search.perturb_every", perturb, config)
    return PopulationBasedTraining(
        time_attr=STEP,
        perturbation_interval=perturb,
        quantile_fraction=options.exchanged,
        hyperparam_mutations=_mutations(space),
        custom_explore_fn=_Inside(space),
    )


def may_be_best(scores: Scores, best: Scores, mode: str) -> bool:
    """Whether a trial's scores are not worse than the best one's by more than chance.

    The tasks are the same, so the differences are taken task by task, of those that the metric is
    defined for in both; if the 95% confidence
    interval of their mean (`dmeta.training.intervals.half_width`) holds 0 or better, it may.

    Args:
        scores: [M] of the trial's validation tasks.
        best: [M] of the best trial on the same ones.
        mode: ``max`` or ``min``: which way they are better.
    """
    gain = scores - best if mode == "max" else best - scores
    gain = gain[~np.isnan(gain)]
    if not (len(gain) and np.isfinite(gain).all()):
        return False
    # Of a single task, which has no interval, the difference alone decides.
    return bool(gain.mean() + np.nan_to_num(half_width(gain)) >= 0)


class PairedASHA(ASHAScheduler):
    """ASHA (Li et al. 2020, arXiv:1810.05934) that does not cut what may still be the best.

    Differs from the paper: a trial in the lower part of a rung is cut only if it is worse than the
    best one of that rung by more than chance (`may_be_best`). And after a restart of the search it
    knows the rungs of before, which Tune's does not.
    """

    def __init__(self, folder: str, keep_possible_best: bool, mode: str, **options: Any) -> None:
        """Remembers what the trials in Tune's folder have reported.

        Args:
            folder: of Tune, with a folder for each trial.
            keep_possible_best: False: plain ASHA.
            mode: ``max`` or ``min``: which way scores are better.
            **options: of Tune's scheduler, which learns metric and mode from Tune.
        """
        super().__init__(**options)
        self._folder, self._keep_possible_best = folder, keep_possible_best
        self._better = mode
        self._scores: dict[float, dict[str, Scores]] = {}  # rung -> trial -> [M]
        self._remembers = False

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """See Tune."""
        self._remember()
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """See Tune; `STOP` only for a trial that is at its end, or worse than chance."""
        rung = self._rung_of(trial.trial_id, result)
        action: str = super().on_trial_result(tune_controller, trial, result)
        if rung is None:
            return action
        best = self._recorded(rung, trial.trial_id, result)
        is_cut = action == TrialScheduler.STOP and result[STEP] < self._max_t
        if is_cut and self._keep_possible_best and best is not None:
            own = self._scores[rung][trial.trial_id]
            if may_be_best(own, best, self._better):
                self._num_stopped -= 1
                return str(TrialScheduler.CONTINUE)
        return action

    def _rung_of(self, trial_id: str, result: Mapping[str, Any]) -> float | None:
        """The rung that this report is the trial's first at, the highest one; or None."""
        if not result.get(SCORES):  # diverged
            return None
        reached = (m for m, recorded in self._brackets[0]._rungs if result[STEP] >= m)
        rung = next(reached, None)
        return None if rung is None or trial_id in self._scores.get(rung, {}) else rung

    def _recorded(self, rung: float, trial_id: str, result: Mapping[str, Any]) -> Scores | None:
        """Take the scores down; returns those of the best trial of the rung."""
        there = self._scores.setdefault(rung, {})
        there[trial_id] = np.asarray(result[SCORES], np.float64)
        same = [scores for scores in there.values() if len(scores) == len(there[trial_id])]
        pick = max if self._better == "max" else min
        return pick(same, key=lambda scores: float(scores.mean()), default=None)

    def _remember(self) -> None:
        if self._remembers:
            return
        self._remembers = True
        for trial_id, result in reports_in(self._folder):
            rung = self._rung_of(trial_id, result)
            if rung is not None and SCORE in result:
                self._recorded(rung, trial_id, result)
                score = self._metric_op * result[SCORE]
                trial: Any = SimpleNamespace(trial_id=trial_id)
                self._brackets[0].on_result(trial, result[STEP], score)


def reports_in(folder: str) -> list[tuple[str, dict[str, Any]]]:
    """(trial's id, report) of all reports that Tune keeps in its folder, by trial and time."""
    found = []
    for text in _texts_in(folder, "*/result.json"):
        for line in text.splitlines():
            try:
                report = json.loads(line)
            except ValueError:  # the last line, when the search was killed
                continue
            found.append((str(report["trial_id"]), report))
    return found


def _texts_in(folder: str, pattern: str) -> list[str]:
    if not is_address(folder):
        return [path.read_text() for path in sorted(Path(folder).glob(pattern))]
    there = DistantFolder(folder)
    try:
        contents = [there.read(name) for name in there.find(pattern)]
    except ValueError as error:  # figures and rungs without them are better than no end
        _LOG.warning("what the trials have reported so far is left out: %s", error)
        return []
    return [content.decode() for content in contents if content is not None]


class _Brackets(HyperBandForBOHB):
    """BOHB's Hyperband; in a search that is continued, no bracket waits for trials that ended."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """See Tune."""
        if not trial.is_finished():  # type: ignore[no-untyped-call]
            super().on_trial_add(tune_controller, trial)


class _Inside:
    """Keeps what population based training makes of a point inside the space."""

    def __init__(self, space: Space) -> None:
        self._intervals = {k: d for k, d in space.dimensions.items() if isinstance(d, Interval)}

    def __call__(self, point: dict[str, Any]) -> dict[str, Any]:
        for key, dimension in self._intervals.items():
            point[key] = min(max(point[key], dimension.low), dimension.high)
            if dimension.whole:
                point[key] = round(point[key])
        return point


def _mutations(space: Space) -> dict[str, Any]:
    """What changes while a trial trains: numbers of the outer optimiser and the algorithm."""
    wrong = [key for key in space.searched() if not key.startswith(("outer.", "algorithm."))]
    if wrong or space.conditions:
        raise ValueError(
            "search=pbt must search keys of outer. and algorithm. alone, which change while a "
            f"trial trains, got {(wrong or list(space.conditions))[0]}; remove it, or choose "
            "another search"
        )
    return {
        key: domain_of(d) if isinstance(d, Interval) else list(d.values)
        for key, d in space.dimensions.items()
    }


def _check_due(key: str, steps: int, config: RunConfig) -> None:
    if (steps % config.validation_every and steps != config.steps) or steps > config.steps:
        raise ValueError(
            f"{key} must be a multiple of eval.every ({config.validation_every}) or steps, and at "
            f"most steps ({config.steps}), got {steps}; change it"
        )
