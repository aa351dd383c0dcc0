"""Searches of runs that are tested on other sources, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dmeta
from dmeta.search.finalize import summary_lines
from tests.search.searches import results_of

# Tune's loggers leave the files of a search that is stopped to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SETTINGS = {
    "steps": 2,
    "meta_batch_size": 4,
    "eval.every": 2,
    "eval.val_tasks": 4,
    "eval.num_tasks": 4,
    "compute.block_size": 2,
    "device": "cpu",
    "search": "grid",
    "outer.lr": "choice(0.001,0.1)",
}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_best_trial_alone_is_tested_on_other_sources(tmp_path: Path) -> None:
    run_dir = tmp_path / "search"
    task = {"name": "sinusoid", "shots": 3}
    results = dmeta.tune(SETTINGS | {"run_dir": str(run_dir), "eval.task": {"few": task}})
    assert [result.error for result in results] == [None, None]
    summary = results_of(run_dir)
    found = summary["test"]
    again = dmeta.evaluate(found["run_dir"], num_tasks=4, task=task)
    few = found["other_tasks"]["few"]
    assert few["transductive"]["mean"] == list(again.transductive.mean)
    assert few["transductive"] != found["evaluation"]["transductive"]
    assert summary_lines(summary)[-1].startswith("On 4 test tasks of few: mse ")
    tested = [path.parent.name for path in run_dir.rglob("results.json") if path.parent != run_dir]
    assert tested == [Path(found["run_dir"]).name]
    settings = json.loads((run_dir / "results.json").read_text())["settings"]
    assert settings["eval"]["task"] == {"few": task}


def test_other_tasks_that_do_not_fit_are_refused_before_the_search(tmp_path: Path) -> None:
    where = {"run_dir": str(tmp_path / "search"), "eval.task": "glyphs"}
    with pytest.raises(ValueError, match=r"eval.task.glyphs must have tasks of kind regression"):
        dmeta.tune(SETTINGS | where)
    assert list(tmp_path.iterdir()) == []
