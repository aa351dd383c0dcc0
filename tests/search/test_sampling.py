"""Tune's domains draw what the space says; searchers draw the same from the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dmeta.search.options import SearchOptions
from dmeta.search.sampling import domains_of, sampling_of
from dmeta.search.space import Choice, Interval, Space, resolved_point

SPACE = Space(
    {
        "algorithm": Choice(("maml", "leo")),
        "outer.lr": Interval(1e-4, 1e-2, log=True),
        "outer.beta1": Interval(0.5, 0.9),
    },
    {"algorithm=maml": Space({"algorithm.inner_steps": Interval(1, 3, whole=True)})},
)


def check(point: dict[str, Any]) -> None:
    flat = resolved_point(point)
    assert flat["algorithm"] in ("maml", "leo")
    assert 1e-4 <= flat["outer.lr"] <= 1e-2
    assert 0.5 <= flat["outer.beta1"] <= 0.9
    assert ("algorithm.inner_steps" in flat) == (flat["algorithm"] == "maml")
    assert flat.get("algorithm.inner_steps", 1) in (1, 2, 3)


def test_domains_draw_within_the_space_and_logs_evenly() -> None:
    domains = domains_of(SPACE)
    rng = np.random.default_rng(0)
    steps = {domains["algorithm=maml"]["algorithm.inner_steps"].sample() for _ in range(100)}
    assert steps == {1, 2, 3}
    rates = np.array([domains["outer.lr"].sample(random_state=rng) for _ in range(400)])
    assert abs(float(np.mean(rates < 1e-3)) - 0.5) < 0.1  # half of them in each decade
    whole = domains_of(Space({"x": Interval(1, 64, log=True, whole=True)}))["x"]
    drawn = [whole.sample() for _ in range(300)]
    assert min(drawn) >= 1
    assert max(drawn) <= 64
    assert float(np.mean(np.array(drawn) <= 8)) > 0.35


@pytest.mark.filterwarnings("ignore:Please use:DeprecationWarning")  # of ConfigSpace, by Ray
@pytest.mark.parametrize("sampler", ["optuna", "bohb"])
def test_searchers_that_learn_draw_points_of_the_space(sampler: Any) -> None:
    if sampler == "bohb":  # one of its dependencies must be compiled: not asked of every machine
        pytest.importorskip("hpbandster", reason="pip install hpbandster ConfigSpace")
    scheduler: Any = "hyperband" if sampler == "bohb" else "none"
    options = SearchOptions(sampler=sampler, scheduler=scheduler, num_trials=3, seed=7)

    def drawn() -> list[dict[str, Any]]:
        sampling = sampling_of(SPACE, options, "score", "max", repr)
        searcher: Any = sampling.searcher
        searcher.set_search_properties("score", "max", sampling.param_space)
        return [searcher.suggest(f"trial-{i}") for i in range(8)]

    points = drawn()
    for point in points:
        check(point)
    assert {resolved_point(p)["algorithm"] for p in points} == {"maml", "leo"}
    if sampler == "optuna":  # hpbandster draws from numpy's global state
        assert drawn() == points


def test_a_grid_is_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SearchOptions(sampler="grid", num_trials=None)
    space = Space({"a.b": Choice((1, 2)), "c.d": Interval(1, 3, whole=True)})
    assert sampling_of(space, options, "score", "max", repr).num_samples == 6
    some = SearchOptions(sampler="grid", num_trials=4)
    assert sampling_of(space, some, "score", "max", repr).num_samples == 4


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_tunes_own_searcher_is_told_how_many_trials_there_may_be_at_once(sampler: Any) -> None:
    space = Space({"outer.lr": Choice((0.1, 0.2, 0.3))})
    options = SearchOptions(sampler=sampler, max_concurrent=2)
    searcher: Any = sampling_of(space, options, "score", "max", repr).searcher
    assert searcher.max_concurrent == 2


def test_a_grid_has_no_point_twice_that_means_the_same_settings() -> None:
    """As where one of two algorithms has no inner steps."""
    space = Space({"algorithm": Choice(("maml", "protonet")), "a.steps": Choice((1, 2, 3))})

    def digest(point: Mapping[str, Any]) -> str:
        return "" if point["algorithm"] == "protonet" else str(point["a.steps"])

    options = SearchOptions(sampler="grid", num_trials=None)
    sampling = sampling_of(space, options, "score", "max", digest)
    searcher: Any = sampling.searcher
    assert sampling.num_samples == 4
    assert searcher._points_to_evaluate[-1] == {"algorithm": "protonet", "a.steps": 1}


@pytest.mark.parametrize(("sampler", "package"), [("optuna", "optuna"), ("bohb", "hpbandster")])
def test_a_missing_package_is_told_of(
    sampler: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    options = SearchOptions(sampler=sampler, scheduler="hyperband" if sampler == "bohb" else "none")
    with pytest.raises(ValueError, match=rf"package {package}, got none; pip install '?{package}"):
        sampling_of(SPACE, options, "score", "max", repr)


def test_lists_can_not_be_learned_from() -> None:
    space = Space({"algorithm.adapt": Choice((["head.*"], ["block4.*"]))})
    with pytest.raises(ValueError, match="choose search=random"):
        sampling_of(space, SearchOptions(sampler="optuna"), "score", "max", repr)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_trials": 0}, "search.num_trials must be >= 1"),
        ({"num_trials": None}, "must be given unless search.sampler=grid"),
        ({"budget_s": 0.0}, "search.budget_s must be > 0"),
        ({"exchanged": 0.6}, "<= 0.5"),
        ({"reduction": 1}, "search.reduction must be >= 2"),
        ({"sampler": "bohb"}, "must go together"),
        ({"scheduler": "hyperband"}, "must go together"),
        ({"scheduler": "pbt", "sampler": "grid"}, "must have search.sampler=random"),
        ({"scheduler": "pbt", "final_steps": 3}, "cannot be trained again from the start"),
        ({"evaluate_best": False, "final_seed": 3}, "must have search.evaluate_best=true"),
        ({"cpus_per_driver": -1.0}, "cpus_per_driver must be >= 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SearchOptions(**changes)
