"""Searches that had ended and are asked for more trials, or for more steps of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dmeta
from dmeta.runs.metrics import read_metrics
from dmeta.search import Choice, Interval, Space
from dmeta.search.search_state import _is_extended
from tests.search.searches import outcome, results_of, search, table

# Tune's loggers leave the files of a search that is stopped to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RATES = Space({"outer.lr": Interval(1e-5, 1e-1, True), "algorithm.inner_lr": Interval(1e-3, 0.1)})


def halving(run_dir: Path, num_trials: int, steps: int, resume: bool = False) -> None:
    """Successive halving, one trial at a time: what is cut then depends on no clock."""
    search(
        run_dir,
        RATES,
        resume=resume,
        settings={"steps": steps},
        sampler="random",
        scheduler="asha",
        num_trials=num_trials,
        max_concurrent=1,
        reduction=2,
        keep_possible_best=False,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_it_decides_as_if_it_had_been_asked_for_so_much_at_first(tmp_path: Path) -> None:
    extended, at_once = tmp_path / "extended", tmp_path / "at_once"
    halving(extended, 3, 4)
    before = table(extended)
    assert {row["status"] for row in before} == {"cut", "finished"}
    halving(extended, 5, 8, resume=True)
    halving(at_once, 5, 8)
    rows, expected = table(extended), table(at_once)
    assert [row["number"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert outcome(extended) == outcome(at_once)
    keys = ("number", "outer.lr", "status", "step", "score")
    assert [[r[k] for k in keys] for r in rows] == [[r[k] for k in keys] for r in expected]
    assert {row["step"] for row in rows} >= {"2", "8"}  # some are cut, some trained to the end
    assert [row["run_dir"] for row in rows[:3]] == [row["run_dir"] for row in before]
    assert results_of(extended)["test"] == {
        **results_of(at_once)["test"],
        "run_dir": results_of(extended)["test"]["run_dir"],
    }
    for path in (extended / "trials").iterdir():  # no step was taken twice
        steps = [row["step"] for row in read_metrics(path) if row["event"] == "val"]
        assert steps == sorted(set(steps))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_searcher_that_learns_begins_with_what_was_tried(tmp_path: Path) -> None:
    space = Space(
        {"algorithm.inner_steps": Choice((1, 2)), "outer.lr": Interval(1e-4, 1e-2)},
        {"algorithm.inner_steps=2": Space({"algorithm.inner_lr": Interval(0.01, 0.1)})},
    )
    how: dict[str, Any] = {"sampler": "optuna", "max_concurrent": 2, "evaluate_best": False}
    settings = {"steps": 2}
    search(tmp_path / "a", space, settings=settings, num_trials=4, **how)
    before = table(tmp_path / "a")
    assert {row["algorithm.inner_lr"] == "" for row in before} == {True, False}
    search(tmp_path / "a", space, settings=settings, num_trials=5, resume=True, **how)
    after = table(tmp_path / "a")
    assert len(after) == 5
    assert [row["run_dir"] for row in after[:4]] == [row["run_dir"] for row in before]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_overrides_extend_one_at_an_address_too(tmp_path: Path) -> None:
    where = f"run_dir=shared://{tmp_path / 'search'}"
    begun = ["steps=2", "eval.every=2", "eval.val_tasks=4", "eval.num_tasks=4", "device=cpu"]
    begun += ["compute.block_size=2", "meta_batch_size=4", "outer.lr=interval(0.001,0.01)"]
    assert len(dmeta.tune([where, *begun, "search.num_trials=1"])) == 1
    more = ["resume=true", "search.num_trials=2", "steps=4"]
    assert len(dmeta.tune([where, *more])) == 2
    assert [row["step"] for row in table(tmp_path / "search")] == ["4", "4"]
    assert len(dmeta.tune([where, "resume=true"])) == 2  # it is what it was asked for last
    for words, match in (
        (["steps=2"], r"steps must be at least .* \(4\), got 2"),
        (["search.num_trials=1"], r"search.num_trials must be at least .* \(2\), got 1"),
        (["eval.every=1"], r"eval.every=1 besides; leave it out \(search.num_trials and steps may"),
    ):
        with pytest.raises(ValueError, match=match):
            dmeta.tune([where, "resume=true", *words])
    kept = json.loads((tmp_path / "search" / "search.json").read_text())
    assert kept["command"].count("steps=4") == 1
    assert "steps=2" not in kept["command"]


@pytest.mark.parametrize("scheduler", ["pbt", "hyperband"])
def test_trials_that_depend_on_their_number_are_not_extended(scheduler: str) -> None:
    def record(num_trials: int, steps: int) -> dict[str, Any]:
        return {
            "search": {"num_trials": num_trials, "scheduler": scheduler},
            "settings": {"steps": steps},
        }

    assert not _is_extended(record(4, 10), record(4, 10))
    for more in (record(5, 10), record(4, 20)):
        with pytest.raises(ValueError, match=f"search.scheduler={scheduler}, whose trials depend"):
            _is_extended(record(4, 10), more)
