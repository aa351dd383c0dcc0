"""A search compares its trials by the primary metric, in its direction."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from torch import Tensor

import dmeta
from dmeta.metrics.regression import R2
from dmeta.runs.layout import SEARCH
from dmeta.search.experiment import Changed
from dmeta.search.space import Choice, Space
from dmeta.search.space_check import checked_search
from dmeta.search.trial import settings_digest
from dmeta.search.trial_reports import Reports
from dmeta.search.user_objects import Own
from tests.conftest import tiny_config
from tests.search.searches import results_of, table

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SPACE = Space({"outer.lr": Choice((0.001, 0.1))})


@pytest.mark.parametrize(
    ("names", "direction"), [(None, "min"), (["mae", "r2"], "min"), (["r2", "mae"], "max")]
)
def test_its_direction_is_that_of_the_search(
    tmp_path: Path, names: list[str] | None, direction: str
) -> None:
    config = tiny_config(tmp_path / "run", eval__metrics=names)
    found = checked_search(SPACE, Changed(config), Own())
    assert found.metric.direction == direction
    assert found.metric.name == ("mse" if names is None else names[0])


def test_a_trial_that_diverges_is_worse_than_any_score(tmp_path: Path) -> None:
    reports = Reports(tiny_config(tmp_path), tmp_path, R2.declaration, {}, 0)
    score = reports.diverged(1, 0.0)["score"]
    reports.close()
    assert score < -1e6  # R2 has no least value


def test_the_digest_of_settings_without_metrics_is_that_of_earlier_versions(
    tmp_path: Path,
) -> None:
    """Which had no such key: a search of then can be continued."""
    config = tiny_config(tmp_path)
    plain = config.as_mapping()
    for group, keys in {
        "eval": ["metrics"],
        "compute": ["plan", "chunk_size"],
        "runtime": ["address", "allow_unauthenticated"],
    }.items():
        plain[group] = {key: value for key, value in plain[group].items() if key not in keys}
    compared = {key: v for key, v in plain.items() if key not in ("run_dir", "resume", "steps")}
    digest = hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()
    assert settings_digest(config) == digest
    assert settings_digest(tiny_config(tmp_path, eval__metrics=["mse"])) != digest


def _largest(values: Tensor, targets: Tensor, ways: int) -> Tensor:
    return (values - targets).abs().max()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_best_trial_is_best_by_an_own_metric_that_is_asked_for_again(tmp_path: Path) -> None:
    settings = {
        "steps": 2, "meta_batch_size": 4, "eval.every": 2, "eval.val_tasks": 4,
        "eval.num_tasks": 4, "compute.block_size": 2, "device": "cpu", "search": "grid",
        "run_dir": str(tmp_path / "search"),
    }  # fmt: skip
    own = dmeta.Metric(
        "nearness", lambda v, t, _: -float(_largest(v, t, 1)), higher_is_better=True, unit="m"
    )
    dmeta.tune(settings | {"outer.lr": "choice(0.001,0.1)"}, metrics=[own, "mae"])
    folder = tmp_path / "search"
    rows = table(folder)
    results = results_of(folder)
    best = max(rows, key=lambda row: float(row["score"]))
    assert str(results["best"]["number"]) == best["number"]
    assert (results["metric"], results["metrics"][0]["unit"]) == ("nearness", "m")
    assert list(results["test"]["evaluation"]["further"]) == ["mae"]
    assert json.loads((folder / SEARCH).read_text())["mode"] == "max"
    assert "metrics=nearness, mae" in (folder / "best.yaml").read_text()
    with pytest.raises(ValueError, match=r"begun with, got .* of metrics=nearness, mae and none"):
        dmeta.tune({"run_dir": str(folder), "resume": True})
    assert len(dmeta.tune({"run_dir": str(folder), "resume": True}, metrics=[own, "mae"])) == 2
