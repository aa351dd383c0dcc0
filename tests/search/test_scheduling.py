"""ASHA that does not cut what may be the best, and remembers; what the others refuse."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from dmeta.search.options import SearchOptions
from dmeta.search.scheduling import PairedASHA, may_be_best, reports_in, scheduler_of
from dmeta.search.space import Choice, Interval, Space
from tests.conftest import tiny_config

SPACE = Space({"outer.lr": Interval(1e-4, 1e-2, log=True)})
TASKS = 50


def scores(mean: float, noise: float, seed: int = 0) -> list[float]:
    own = np.random.default_rng(seed).standard_normal(TASKS) * noise
    shared = np.random.default_rng(99).standard_normal(TASKS)  # some tasks are hard for all
    return list(mean + shared + own - own.mean())


def asha(folder: Path, keep: bool = True, mode: str = "max") -> PairedASHA:
    scheduler = PairedASHA(
        folder, keep, mode, time_attr="step", max_t=9, grace_period=1, reduction_factor=3
    )
    scheduler.set_search_properties("score", mode)
    return scheduler


def report(step: int, of: list[float]) -> dict[str, Any]:
    return {"step": step, "score": float(np.mean(of)), "scores": of}


def decisions(scheduler: PairedASHA, reports: dict[str, dict[str, Any]]) -> dict[str, str]:
    found = {}
    for name, result in reports.items():
        trial: Any = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(None, trial)
        found[name] = scheduler.on_trial_result(None, trial, result)
    return found


def test_worse_by_chance_is_not_worse() -> None:
    best = np.array(scores(0.8, 0.05, 1))
    close, far = np.array(scores(0.79, 0.1, 2)), np.array(scores(0.6, 0.1, 3))
    assert may_be_best(close, best, "max")
    assert not may_be_best(far, best, "max")
    assert may_be_best(-close, -best, "min")
    assert not may_be_best(-far, -best, "min")
    assert not may_be_best(np.full(TASKS, np.inf), best, "min")


def test_tasks_that_a_metric_is_not_defined_for_are_not_compared() -> None:
    best = np.array(scores(0.8, 0.05, 1))
    best[:5] = np.nan
    close, far = np.array(scores(0.79, 0.1, 2)), np.array(scores(0.6, 0.1, 3))
    assert may_be_best(close, best, "max")
    assert not may_be_best(far, best, "max")
    assert not may_be_best(np.full(TASKS, np.nan), best, "max")


def test_the_tasks_being_the_same_tells_small_differences() -> None:
    """0.05 apart, where the tasks differ by 1: unpaired, 50 tasks would not tell."""
    best, worse = np.array(scores(0.8, 0.01, 1)), np.array(scores(0.75, 0.01, 2))
    unpaired = 1.96 * np.hypot(best.std(), worse.std()) / np.sqrt(TASKS)
    assert unpaired > 0.2
    assert not may_be_best(worse, best, "max")


@pytest.mark.parametrize("mode", ["max", "min"])
def test_only_what_is_worse_by_more_than_chance_is_cut(tmp_path: Path, mode: str) -> None:
    sign = 1 if mode == "max" else -1
    reports = {
        "good": report(1, [sign * s for s in scores(0.9, 0.1, 1)]),
        "close": report(1, [sign * s for s in scores(0.89, 0.1, 2)]),
        "bad": report(1, [sign * s for s in scores(0.2, 0.1, 3)]),
    }
    plain = decisions(asha(tmp_path, keep=False, mode=mode), reports)
    assert plain == {"good": "CONTINUE", "close": "STOP", "bad": "STOP"}
    paired = decisions(asha(tmp_path, mode=mode), reports)
    assert paired == {"good": "CONTINUE", "close": "CONTINUE", "bad": "STOP"}


def test_a_trial_is_compared_at_the_next_rung_again(tmp_path: Path) -> None:
    scheduler = asha(tmp_path)
    first = {"good": report(1, scores(0.9, 0.1, 1)), "close": report(1, scores(0.89, 0.1, 2))}
    assert decisions(scheduler, first)["close"] == TrialScheduler.CONTINUE
    for name, of in (("good", scores(0.95, 0.1, 4)), ("close", scores(0.5, 0.1, 5))):
        trial: Any = SimpleNamespace(trial_id=name)
        between = scheduler.on_trial_result(None, trial, report(2, of))
        assert between == TrialScheduler.CONTINUE  # no rung: nothing is decided
        action = scheduler.on_trial_result(None, trial, report(3, of))
        assert action == (TrialScheduler.STOP if name == "close" else TrialScheduler.CONTINUE)


def test_a_restarted_search_knows_the_rungs_of_before(tmp_path: Path) -> None:
    for name, mean in (("one", 0.9), ("two", 0.85)):
        (tmp_path / name).mkdir()
        line = {**report(1, scores(mean, 0.1, 7)), "trial_id": name}
        torn = json.dumps(line)[:20]  # the kill that ended the search
        (tmp_path / name / "result.json").write_text(f"{json.dumps(line)}\n{torn}")
    assert [trial for trial, _ in reports_in(str(tmp_path))] == ["one", "two"]
    late = {"late": report(1, scores(0.3, 0.1, 8))}
    assert decisions(asha(tmp_path), late) == {"late": TrialScheduler.STOP}
    assert decisions(asha(tmp_path / "empty"), late) == {"late": TrialScheduler.CONTINUE}


def test_a_trial_that_diverged_is_cut_without_a_comparison(tmp_path: Path) -> None:
    reports = {
        "good": report(1, scores(0.9, 0.1, 1)),
        "lost": {"step": 1, "score": 0.0, "scores": []},
    }
    assert decisions(asha(tmp_path), reports)["lost"] == TrialScheduler.STOP


def test_population_based_training_stays_inside_the_space(tmp_path: Path) -> None:
    space = Space(
        {
            "outer.lr": Interval(1e-3, 2e-3),
            "algorithm.inner_steps": Interval(1, 3, whole=True),
            "outer.clip_norm": Choice((1.0, 10.0)),
        }
    )
    config = tiny_config(tmp_path, steps=6, eval__every=2)
    options = SearchOptions(scheduler="pbt", perturb_every=4)
    scheduler: Any = scheduler_of(space, options, config, "max", str(tmp_path))
    for seed in range(30):
        np.random.seed(seed)  # noqa: NPY002 - Tune draws from it
        point = {"outer.lr": 1.9e-3, "algorithm.inner_steps": 3, "outer.clip_norm": 1.0}
        changed, _ = scheduler._get_new_config(None, SimpleNamespace(config=point))
        assert 1e-3 <= changed["outer.lr"] <= 2e-3
        assert changed["algorithm.inner_steps"] in (1, 2, 3)
        assert changed["outer.clip_norm"] in (1.0, 10.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "options", "match"),
    [
        (Space({"model.hidden": Choice((1, 2))}), {"scheduler": "pbt"}, "got model.hidden"),
        (
            Space({"algorithm": Choice(("maml", "anil"))}, {"algorithm=maml": SPACE}),
            {"scheduler": "pbt"},
            "got algorithm;",
        ),
        (
            SPACE,
            {"scheduler": "pbt", "perturb_every": 3},
            "search.perturb_every must be a multiple",
        ),
        (SPACE, {"scheduler": "asha", "grace_steps": 5}, "search.grace_steps must be a multiple"),
        (SPACE, {"scheduler": "asha", "grace_steps": 8}, "at most steps"),
    ],
)
def test_what_a_scheduler_can_not_do_is_refused(
    tmp_path: Path, space: Space, options: Any, match: str
) -> None:
    config = tiny_config(tmp_path, steps=6, eval__every=2)
    with pytest.raises(ValueError, match=match):
        scheduler_of(space, SearchOptions(**options), config, "max", str(tmp_path))
