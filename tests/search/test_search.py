"""Whole searches on a small cluster: what they leave, what they survive, and that bits are bits."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.tune.search.optuna import OptunaSearch

import dmeta
from dmeta.cli.settings.hydra_app import compose
from dmeta.runs.checkpoint import open_checkpoints, read_checkpoint
from dmeta.runs.metrics import read_metrics
from dmeta.search import Choice, Interval, Space
from dmeta.search.experiment import Changed
from dmeta.search.shared_source import SharedSource
from dmeta.search.trial import settings_digest
from dmeta.tasks.source import EpisodeSize
from dmeta.training.build import make_source
from dmeta.training.config import run_config
from tests.conftest import tiny_config
from tests.search.searches import (
    HALF,
    RATES,
    outcome,
    outcome_of_half,
    results_of,
    search,
    table,
)
from tests.training.test_run import finish

# Tune's loggers leave the files of a search that is stopped to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("cluster"),
]


def test_a_search_has_a_table_of_its_trials(whole: Path) -> None:
    rows = table(whole)
    assert [row["number"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["status"] for row in rows} == {"finished"}
    assert {(row["outer.lr"], row["algorithm.inner_lr"]) for row in rows} == {
        (a, b) for a in ("0.001", "0.01") for b in ("0.001", "0.02")
    }
    assert {row["tasks"] for row in rows} == {str(6 * 5)}


@pytest.mark.slow
def test_steps_need_not_be_a_multiple_of_those_between_validations(tmp_path: Path) -> None:
    search(tmp_path, Space({"outer.lr": Choice((0.001,))}), settings={"eval__every": 4})
    [row] = table(tmp_path)
    assert (row["status"], row["step"]) == ("finished", "6")
    val = [r for r in read_metrics(Path(row["run_dir"])) if r["event"] == "val"]
    assert [r["step"] for r in val] == [4, 6]


@pytest.mark.slow
def test_a_trial_is_the_run_that_its_settings_mean(whole: Path, tmp_path: Path) -> None:
    """To the bit: parameters, and the scores that it reported."""
    row = table(whole)[2]
    rates = {"outer__lr": float(row["outer.lr"])}
    rates["algorithm__inner_lr"] = float(row["algorithm.inner_lr"])
    finish(tmp_path, eval__every=2, device="cpu", **rates)
    own, plain = (
        read_checkpoint(open_checkpoints(path, None), 6).state.arrays
        for path in (Path(row["run_dir"]), tmp_path)
    )
    assert own.keys() == plain.keys()
    assert all(own[key].tobytes() == plain[key].tobytes() for key in plain)
    reports = [
        json.loads(line)
        for line in (Path(row["run_dir"]) / "reports.jsonl").read_text().splitlines()
    ]
    val = [r for r in read_metrics(tmp_path) if r["event"] == "val"]
    assert [r["score"] for r in reports] == [r["mse"] for r in val]
    assert [r["status"] for r in reports] == ["running", "running", "finished"]
    assert all(len(r["scores"]) == 4 for r in reports)


def test_the_best_is_evaluated_once_on_test_tasks(whole: Path) -> None:
    results = results_of(whole)
    best = min(table(whole), key=lambda row: float(row["score"]))
    assert str(results["best"]["number"]) == best["number"]
    assert results["best"]["point"]["outer.lr"] == float(best["outer.lr"])
    assert results["trials"] == {"all": 4, "finished": 4}
    assert results["training_tasks"] == 4 * 6 * 5
    test = results["test"]["evaluation"]
    assert (test["split"], test["num_tasks"], test["step"]) == ("test", 6, 6)
    others = [row for row in table(whole) if row["number"] != best["number"]]
    assert not any((Path(row["run_dir"]) / "results.json").exists() for row in others)
    assert all(
        {r["event"] for r in read_metrics(Path(row["run_dir"]))} <= {"train", "val"}
        for row in others
    )


def test_the_best_settings_are_an_experiment(whole: Path) -> None:
    preset = whole / "best.yaml"
    config = run_config(compose("train", [f"experiment={preset}", "runtime=local"]))
    point = results_of(whole)["best"]["point"]
    assert config.outer.lr == point["outer.lr"]
    assert config.algorithm.options["inner_lr"] == point["algorithm.inner_lr"]
    assert (config.steps, config.meta_batch_size, config.eval.val_tasks) == (6, 5, 4)
    assert config.compute.block_size == 2
    assert config.run_dir is None
    assert "The best of 4 trials" in preset.read_text()
    with pytest.raises(ValueError, match="experiment must be a preset's name or a YAML file"):
        compose("train", [f"experiment={whole}/worst.yaml"])


def test_a_search_has_a_page_and_hyperparameters_for_tensorboard(whole: Path) -> None:
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert page.count('<div class="figure"') == 2 + 4
    table = page[page.index("<table") :]
    assert table.count("<tr") == 5
    assert "chosen from 4 trials" in page
    assert "override /algorithm: maml" in page
    events = b"".join(path.read_bytes() for path in (whole / "tune").glob("*/events*"))
    assert b"hparams" in events
    assert b"outer.lr" in events


@pytest.mark.slow
def test_checkpoints_elsewhere_are_each_trials_own(whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    settings = {"checkpoint__location": str(place)}
    search(tmp_path / "search", HALF, settings=settings, evaluate_best=False)
    assert outcome(tmp_path / "search") == outcome_of_half(whole)
    folders = {Path(row["run_dir"]).name for row in table(tmp_path / "search")}
    assert {path.name for path in place.iterdir()} == folders
    handed = next((tmp_path / "search" / "tune").glob("*/checkpoint_*"))
    assert dmeta.load(handed).step in (2, 4, 6)  # complete in itself


@pytest.mark.slow
def test_the_best_model_of_a_trial_counts_where_that_is_evaluated(tmp_path: Path) -> None:
    """An outer rate that makes it worse again: its score is that of its best step."""
    space = Space({"outer.lr": Choice((0.3, 0.5))})
    search(tmp_path / "search", space, settings={"eval__checkpoint": "best", "eval__every": 1})
    for row in table(tmp_path / "search"):
        lines = (Path(row["run_dir"]) / "reports.jsonl").read_text().splitlines()
        val = [r for r in read_metrics(Path(row["run_dir"])) if r["event"] == "val"]
        best = min((r for r in val if r["mse"] == r["mse"]), key=lambda r: (r["mse"], r["step"]))
        assert float(row["score"]) == best["mse"]
        assert int(row["of_step"]) == best["step"]
        assert json.loads(lines[-1])["step"] == 6
    assert any(row["of_step"] != "6" for row in table(tmp_path / "search"))
    results = results_of(tmp_path / "search")
    assert results["test"]["evaluation"]["step"] == results["best"]["of_step"]


@pytest.mark.slow
def test_the_worst_go_on_from_the_best_with_other_rates(tmp_path: Path) -> None:
    space = Space({"outer.lr": Interval(1e-5, 3e-2, log=True)})
    search(
        tmp_path / "search",
        space,
        sampler="random",
        scheduler="pbt",
        num_trials=4,
        evaluate_best=False,
        settings={"steps": 12, "meta_batch_size": 10},
    )
    folders = list((tmp_path / "search" / "trials").iterdir())
    # These have no steps of their own before those that they took over.
    later = [p for p in folders if min(r["step"] for r in read_metrics(p)) > 2]
    assert len(folders) > 4
    assert later
    assert {row["step"] for row in table(tmp_path / "search")} == {"12"}
    rows = table(tmp_path / "search")
    for row in rows:  # what a row says was tried is what its run was trained with
        config = json.loads((Path(row["run_dir"]) / "config.json").read_text())["settings"]
        assert str(config["outer"]["lr"]) == row["outer.lr"]


@pytest.mark.slow
def test_trials_with_workers_of_their_own_have_the_same_bits(whole: Path, tmp_path: Path) -> None:
    ray_runtime = {
        "runtime": "ray",
        "runtime__num_workers": 2,
        "runtime__cpus_per_worker": 0.5,
        "compute__block_size": 2,
        "compute__plan": "vmap",
    }
    search(tmp_path / "search", HALF, settings=ray_runtime, evaluate_best=False)
    assert outcome(tmp_path / "search") == outcome_of_half(whole)


@pytest.mark.slow
def test_the_best_can_be_trained_anew(tmp_path: Path) -> None:
    search(tmp_path / "search", Space({"outer.lr": Choice((0.01,))}), final_steps=8, final_seed=5)
    test = results_of(tmp_path / "search")["test"]
    assert test["run_dir"] == str(tmp_path / "search" / "final")
    assert test["evaluation"]["step"] == 8
    settings = json.loads((tmp_path / "search" / "final" / "config.json").read_text())["settings"]
    assert (settings["seed"], settings["steps"]) == (5, 8)


@pytest.mark.slow
def test_a_search_from_texts_is_the_one_from_python(tmp_path: Path) -> None:
    results = dmeta.tune(
        {
            "task": "sinusoid",
            "steps": 4,
            "meta_batch_size": 5,
            "eval.every": 2,
            "eval.val_tasks": 4,
            "eval.num_tasks": 6,
            "compute.block_size": 2,
            "algorithm": "choice(maml,anil)",
            "outer.lr": "choice(0.001,0.01)",
            "search": "optuna",
            "search.num_trials": 2,
            "run_dir": str(tmp_path / "search"),
        }
    )
    assert len(results) == 2
    assert (
        results.get_best_result().metrics["score"]
        == results_of(tmp_path / "search")["best"]["score"]
    )
    assert {row["algorithm"] for row in table(tmp_path / "search")} <= {"maml", "anil"}


@pytest.mark.slow
def test_an_own_searcher_and_its_study_are_at_hand(tmp_path: Path) -> None:
    searcher = OptunaSearch(metric="score", mode="min", seed=1)
    space = Space({"outer.lr": Interval(1e-3, 1e-2, log=True)})
    options = {"sampler": "random", "num_trials": 2, "evaluate_best": False}
    results = search(tmp_path / "search", space, searcher=searcher, **options)
    study: Any = searcher._ot_study
    scores = {trial.value for trial in study.trials}
    assert scores == {result.metrics["score"] for result in results if result.metrics}
    assert len(scores) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "settings", "match"),
    [
        (Space({}), {}, "a search must have a space"),
        (Space({"eval.seed": Choice((1, 2))}), {}, "eval.seed must be the same in all trials"),
        (Space({"task.shots": Choice((5, 10))}), {}, "task.shots must be the same in all trials"),
        (Space({"steps": Choice((6, 8))}), {}, "'steps' must be a key of a group"),
        (Space({"compute.block_size": Choice((1, 2))}), {}, "must be the same in all trials"),
        (Space({"outer.lr": Choice((0.1, -1.0))}), {}, r"outer.lr must be > 0.*at outer.lr=-1.0"),
        (Space({"outer.lrr": Choice((0.1, 1.0))}), {}, "unknown key 'outer.lrr'"),
        (RATES, {"eval__every": 0}, "eval.every must be >= 1 in a search"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_and_writes_nothing(
    tmp_path: Path, space: Space, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        search(tmp_path / "search", space, settings=settings)
    assert not (tmp_path / "search").exists()


@pytest.mark.slow
def test_a_data_set_is_in_the_object_store_once_and_travels_as_a_reference() -> None:
    glyphs = make_source(tiny_config("unused", task="glyphs"))
    size = len(pickle.dumps(glyphs))
    source = SharedSource(ray.put(glyphs))

    @ray.remote
    def seen(factories: list[SharedSource]) -> tuple[int, bool, bytes]:
        """As a worker's factory, which is put in the object store by another trial."""
        there = factories[0]
        task = there.draw("val", EpisodeSize(5, 1, 1), np.random.default_rng(3))
        arrays = [v for v in vars(there._source).values() if isinstance(v, np.ndarray)]
        mapped = bool(arrays) and not any(array.flags.writeable for array in arrays)
        return len(ray.cloudpickle.dumps(there)), mapped, task.query_x.tobytes()

    sent, mapped, drawn = ray.get(seen.remote([source]))
    assert size > 100_000
    assert sent < 1_000
    assert mapped  # the store's own memory, which nobody may write to
    expected = glyphs.draw("val", EpisodeSize(5, 1, 1), np.random.default_rng(3))
    assert drawn == expected.query_x.tobytes()
    assert (source.kind, source.input_shape) == (glyphs.kind, glyphs.input_shape)


@pytest.mark.slow
def test_settings_that_mean_the_same_run_have_the_same_folder() -> None:
    config = tiny_config("one")
    assert settings_digest(config) == settings_digest(tiny_config("other", resume="auto"))
    assert settings_digest(config) != settings_digest(tiny_config("one", seed=1))
    changed = Changed(config)({"outer.lr": 0.5})
    assert settings_digest(changed) != settings_digest(config)
    assert settings_digest(Changed(config)({"outer.lr": config.outer.lr})) == settings_digest(
        config
    )
    assert settings_digest(tiny_config("one", steps=99)) == settings_digest(
        config
    )  # the same run, longer
    decaying = [tiny_config("one", outer__schedule="cosine", steps=s) for s in (6, 9)]
    assert settings_digest(decaying[0]) != settings_digest(decaying[1])
