"""Runs with chosen metrics: what is written, by what is chosen, what can be resumed."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import dmeta
from dmeta.cli.status import status
from dmeta.cli.terminal.results_table import print_results
from dmeta.runs.layout import CONFIG, RESULTS
from dmeta.runs.metrics import read_metrics
from dmeta.tasks.glyphs import make_glyphs
from dmeta.training.results import Result
from tests.conftest import TINY

GLYPHS = {
    "task": "glyphs",
    "algorithm": "protonet",
    "model": "mlp",
    "model.num_layers": 1,
    "task.ways": 3,
    "task.num_classes": 30,
    "task.drawings": 8,
    "task.queries": 4,
    "runtime": "local",
    "compute.plan": "vmap",
    "steps": 4,
    "meta_batch_size": 2,
    "eval.every": 1,
    "eval.val_tasks": 6,
    "eval.num_tasks": 6,
}


def median_error(values: Tensor, targets: Tensor, ways: int) -> Tensor:
    return (values - targets).abs().median()


MEDIAN = dmeta.Metric("median_error", median_error, higher_is_better=False, unit="mm")


def trained(run_dir: Path, base: dict[str, Any] = TINY, **own: Any) -> Result:
    changes = own.pop("changes", {})
    return dmeta.train(base | {"run_dir": str(run_dir)} | changes, **own)


def validations(run_dir: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run_dir) if row["event"] == "val"]


def content_of(run_dir: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((run_dir / name).read_text()))


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("classified") / "run"
    names = ["balanced_accuracy", "nll", "auroc"]
    return trained(folder, GLYPHS, changes={"eval.metrics": names})


def test_all_metrics_are_written_and_shown(classified: Result) -> None:
    folder, test = Path(classified.run_dir), classified.test
    assert test.metric == "balanced_accuracy"
    assert list(test.further) == ["nll", "auroc"]
    results = content_of(folder, RESULTS)
    assert results["metric"] == "balanced_accuracy"
    assert [each["name"] for each in results["metrics"]] == ["balanced_accuracy", "nll", "auroc"]
    found = results["test"]["further"]["nll"]
    for mode in ("transductive", "non_transductive"):
        assert found[mode].keys() == {"mean", "ci95", "undefined"}
    assert found["transductive"]["mean"] == test.further["nll"].transductive.mean > 0
    for row in validations(folder):
        keys = {"balanced_accuracy", "ci95", "nll", "nll_ci95", "nll_non_transductive", "auroc"}
        assert keys <= row.keys()
    assert "accuracy" in next(row for row in read_metrics(folder) if row["event"] == "train")
    (line,) = [each for each in status(folder).lines() if each.startswith("validation")]
    assert line.startswith("validation balanced_accuracy ")
    assert "%" in line
    out = io.StringIO()
    print_results(classified.summary, [], "x", Console(file=out, width=100, color_system=None))
    text = out.getvalue()
    assert "│        nll (nats) │" in text
    assert "│             auroc │" in text
    assert max(map(len, text.splitlines())) <= 160  # the heading; lines of the table:
    assert max(len(each) for each in text.splitlines() if each[0] in "┏┃┡│├└") <= 100


def test_balanced_accuracy_of_balanced_queries_is_the_accuracy(
    classified: Result, tmp_path: Path
) -> None:
    """And metrics change no bit of the parameters."""
    plain = trained(tmp_path / "plain", GLYPHS)
    assert plain.meta_params_sha256 == classified.meta_params_sha256
    assert plain.test.metric == "accuracy"
    assert plain.test.further == {}
    assert plain.test.value == pytest.approx(classified.test.value, abs=1e-6)
    assert "further" not in content_of(tmp_path / "plain", RESULTS)["test"]


def test_evaluate_computes_other_metrics_of_a_trained_run(classified: Result) -> None:
    found = dmeta.evaluate(classified.run_dir, num_tasks=6, metrics=["accuracy", "brier"])
    assert (found.metric, list(found.further)) == ("accuracy", ["brier"])
    same = dmeta.evaluate(classified.run_dir, num_tasks=6)
    assert same == classified.test
    with pytest.raises(ValueError, match=r"metrics must be metrics of classification tasks .* r2"):
        dmeta.evaluate(classified.run_dir, metrics=["r2"])


@pytest.mark.parametrize(("primary", "best"), [("mae", min), ("r2", max)])
def test_the_best_checkpoint_is_that_of_the_primary_metric_in_its_direction(
    tmp_path: Path, primary: str, best: Any
) -> None:
    names = [primary, *{"mae", "r2", "mse"} - {primary}]
    changes = {"eval.metrics": names, "eval.checkpoint": "best", "eval.every": 1, "steps": 5}
    result = trained(tmp_path / "run", changes=changes)
    rows = validations(tmp_path / "run")
    assert result.test.step == best(rows, key=lambda row: row[primary])["step"]
    assert rows[-1]["best_step"] == result.test.step
    again = dmeta.evaluate(result.run_dir, checkpoint="best", num_tasks=4)
    assert (again.metric, again.step) == (primary, result.test.step)


def test_an_ensembles_metrics_are_those_of_its_average(tmp_path: Path) -> None:
    changes = {"eval.metrics": ["nll", "auroc"], "eval.checkpoint": "ensemble"}
    result = trained(tmp_path / "run", GLYPHS, changes=changes)
    assert result.test.num_models == 4
    assert 0 < result.test.value < math.log(3) + 1
    assert 0 <= result.test.further["auroc"].transductive.mean <= 1


def test_a_run_goes_on_with_the_same_primary_metric_and_any_others(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder, changes={"eval.metrics": ["mae", "r2"], "steps": 2})
    more = {"resume": True, "run_dir": str(folder), "steps": 3}
    with pytest.raises(ValueError, match=r"eval.metrics must begin with mae, by which the best"):
        dmeta.train(more | {"eval.metrics": ["r2", "mae"]})
    result = dmeta.train(more | {"eval.metrics": ["mae", "mse"]})
    assert (result.test.metric, list(result.test.further)) == ("mae", ["mse"])


def test_runs_of_earlier_versions_are_resumed_evaluated_and_shown(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before = trained(folder, changes={"steps": 2})
    for name in (CONFIG, RESULTS):
        content = content_of(folder, name)
        del content["metrics"]
        del content["settings"]["eval"]["metrics"]
        (folder / name).write_text(json.dumps(content))
    found = status(folder)
    assert found.metric == "mse"  # type: ignore[union-attr]
    assert any(line.startswith("validation mse ") for line in found.lines())
    assert dmeta.evaluate(folder, num_tasks=4).metric == before.test.metric == "mse"
    with pytest.raises(ValueError, match="must begin with mse"):
        dmeta.train(
            {"resume": True, "run_dir": str(folder), "steps": 3, "eval.metrics": ["mae", "mse"]}
        )
    assert dmeta.train({"resume": True, "run_dir": str(folder), "steps": 3}).test.metric == "mse"


def test_an_own_metric_is_recorded_and_asked_for_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = trained(folder, metrics=[MEDIAN, "mse"])
    assert (result.test.metric, list(result.test.further)) == ("median_error", ["mse"])
    config = content_of(folder, CONFIG)
    assert config["own"] == ["metrics"]
    assert config["settings"]["eval"]["metrics"] == ["median_error", "mse"]
    lines = status(folder).lines()  # it needs no metric
    assert any(line.startswith("validation median_error ") and " mm " in line for line in lines)
    with pytest.raises(ValueError, match=r"custom metrics \(median_error, mse\).*metrics=\.\.\."):
        dmeta.evaluate(folder, num_tasks=4)
    assert dmeta.evaluate(folder, num_tasks=4, metrics=["mse"]).metric == "mse"
    again = dmeta.evaluate(folder, num_tasks=6, metrics=[MEDIAN, "mse"])
    assert again.value == result.test.value
    more = {"resume": True, "run_dir": str(folder), "steps": 7}
    with pytest.raises(ValueError, match=r"trained with custom metrics"):
        dmeta.train(more)
    assert dmeta.train(more, metrics=[MEDIAN]).test.metric == "median_error"
    assert dmeta.load(folder) is not None
    assert dmeta.replay(folder, 0)


@pytest.mark.slow
def test_an_own_metric_travels_to_rays_workers(tmp_path: Path) -> None:
    def largest(values: Tensor, targets: Tensor, ways: int) -> float:
        return float((values - targets).abs().max())

    own = dmeta.Metric("largest_error", largest, higher_is_better=False)
    here = trained(tmp_path / "local", metrics=[own, "r2"])
    there = trained(
        tmp_path / "ray",
        metrics=[own, "r2"],
        changes={"runtime": "ray", "runtime.num_workers": 2},
    )
    assert there.test == here.test
    assert there.meta_params_sha256 == here.meta_params_sha256


def _fails(values: Tensor, targets: Tensor, ways: int) -> Tensor:
    raise RuntimeError("no such thing")


def _rows(values: Tensor, targets: Tensor, ways: int) -> Tensor:
    return (values - targets).abs()


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([], "metrics must have a metric, got none"),
        (["mse", "mse"], "metrics must have each metric once, got mse twice"),
        (["mea"], r"metrics must be of .*did you mean 'm"),
        (["auroc"], "metrics must be metrics of regression tasks .*, got auroc, which is of class"),
        ([median_error], "must be names of registered metrics or dmeta.Metric objects, got func"),
        ([dataclasses.replace(MEDIAN, name="mse")], "with the name of a registered one, got 'mse'"),
        (
            [dmeta.Metric("bad", _fails, True)],
            "metric bad must take .* RuntimeError: no such thing",
        ),
        ([dmeta.Metric("bad", _rows, True)], "metric bad must take .* and return a number"),
        ([dmeta.Metric("bad", _rows, True, batched=True)], "metric bad must return a number"),
        ([dataclasses.replace(MEDIAN, kind="classification")], "median_error, which is of classif"),
    ],
)
def test_metrics_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, metrics: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trained(tmp_path / "run", metrics=metrics)
    assert not (tmp_path / "run" / CONFIG).exists()


def test_metrics_are_given_in_one_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"eval.metrics must not be set together with metrics="):
        trained(tmp_path / "run", metrics=["mae"], changes={"eval.metrics": ["mse"]})


class Weighted:
    """A source that says by what it is evaluated."""

    kind = "classification"
    input_shape = (1, 28, 28)
    metrics = ("macro_f1", "accuracy")

    def __init__(self) -> None:
        self._glyphs = make_glyphs(num_classes=30, drawings=8)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._glyphs, name)


def test_a_source_says_by_what_its_tasks_are_evaluated(tmp_path: Path) -> None:
    base = {key: v for key, v in GLYPHS.items() if key not in ("task.num_classes", "task.drawings")}
    base = {**base, "task.shots": 1}
    del base["task"]
    result = trained(tmp_path / "a", base, source=Weighted())
    assert (result.test.metric, list(result.test.further)) == ("macro_f1", ["accuracy"])
    assert content_of(tmp_path / "a", CONFIG)["settings"]["eval"]["metrics"] is None
    chosen = {"eval.metrics": ["nll"]}
    assert trained(tmp_path / "b", base, source=Weighted(), changes=chosen).test.metric == "nll"


@pytest.mark.slow
def test_the_default_metrics_import_no_torchmetrics(tmp_path: Path) -> None:
    script = (
        "import sys, dmeta\n"
        f"dmeta.train({TINY | {'run_dir': str(tmp_path / 'run')}!r})\n"
        "assert 'torchmetrics' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_names_are_looked_up_without_torch() -> None:
    script = (
        "import sys\n"
        "from dmeta.metrics import METRICS\n"
        "assert METRICS['nll'].make().declaration.unit == 'nats'\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_metrics_are_registered_by_name() -> None:
    assert dmeta.METRICS["mse"].make().function(torch.zeros(2, 1), torch.ones(2, 1), 1) == 1.0
