"""Tasks of forecasting: windows of the past of a series, and what came next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dmeta
from dmeta.metrics.forecasting import mase, smape
from dmeta.tasks.forecast import load_forecast
from dmeta.tasks.forecasts import Forecasts
from dmeta.tasks.source import SPLITS, EpisodeSize
from tests.tasks.conftest import real_data

SIZE = EpisodeSize(1, 3, 2)
WINDOW = {"horizon": 4, "history": 6, "season": 2}


def write_rows(path: Path, rows: dict[str, list[float]]) -> Path:
    width = max(map(len, rows.values()))
    lines = [",".join(f'"V{n}"' for n in range(1, width + 2))]
    for name, values in rows.items():
        cells = [name, *map(str, values), *[""] * (width - len(values))]
        lines.append(",".join(f'"{cell}"' for cell in cells))
    path.write_text("\n".join(lines) + "\n")
    return path


def counting(num_series: int = 10, length: int = 60) -> dict[str, list[float]]:
    """Series g is 1000 g, 1000 g + 1, ...; every second one is shorter."""
    return {
        f"s{g}": [1000.0 * g + n for n in range(length - 9 * (g % 2))] for g in range(num_series)
    }


def loaded(tmp_path: Path, **options: Any) -> Forecasts:
    file = write_rows(tmp_path / "past.csv", counting())
    return load_forecast(file=str(file), **{**WINDOW, **options})


ERROR = 2.0
"""Of repeating a value of such a series after a season."""


def test_windows_of_the_past_are_known_and_what_follows_is_asked(tmp_path: Path) -> None:
    source = loaded(tmp_path)
    task = source.draw("test", SIZE, np.random.default_rng(0))
    assert task.support_x.shape == (3, 6)
    assert task.support_y.shape == (3, 4)
    assert task.query_x.shape == (2, 6)
    assert task.query_y.dtype == np.float32
    [series] = {g for g in source.splits["test"] if _is_of(source, g, task.query_y)}
    length = 60 - 9 * (series % 2)
    asked = task.query_y * ERROR - 1000 * series
    assert np.allclose(asked[0], length - 4 + np.arange(4), atol=0.1)
    assert np.allclose(asked[1], length - 8 + np.arange(4), atol=0.1)
    before = task.query_x * ERROR - 1000 * series
    assert np.allclose(before[0], length - 10 + np.arange(6), atol=0.1)
    known = task.support_y * ERROR - 1000 * series
    assert sorted(known[:, -1].round().tolist()) == [length - 13, length - 11, length - 9]
    assert known.max() < asked.min()


def _is_of(source: Forecasts, series: int, y: Any) -> bool:
    return bool(np.all(np.abs(y * ERROR - 1000 * series) < 100))


def test_training_is_at_any_time_and_test_at_the_end(tmp_path: Path) -> None:
    source = loaded(tmp_path, split_by="example", season=1)
    size = EpisodeSize(1, 1, 1)
    last: dict[str, set[int]] = {}
    for split in SPLITS:
        tasks = [source.draw(split, size, np.random.default_rng(s)) for s in range(150)]
        last[split] = {round(float(t.query_y[0, -1])) % 1000 for t in tasks}
    assert last["test"] == {59, 50}
    assert last["val"] == {55, 46}
    assert len(last["train"]) > 25
    assert last["train"] < set(range(13, 52)), "never what validation or test ask"
    assert max(last["train"]) > 43


def test_series_are_held_out(tmp_path: Path) -> None:
    source = loaded(tmp_path)
    assert [len(source.splits[split]) for split in SPLITS] == [6, 2, 2]
    assert len(np.unique(np.concatenate(list(source.splits.values())))) == 10


def test_the_test_file_follows_the_other_one(tmp_path: Path) -> None:
    rows = counting()
    after = {name: [own[-1] + n for n in range(1, 7)] for name, own in reversed(rows.items())}
    test_file = write_rows(tmp_path / "after.csv", after)
    source = loaded(tmp_path, test_file=str(test_file), split_by="example")
    for seed in range(8):
        task = source.draw("test", EpisodeSize(1, 1, 1), np.random.default_rng(seed))
        found = {tuple(np.round(task.query_y[0] * 2).astype(int).tolist())}
        assert found & {tuple(int(v) for v in own[:4]) for own in after.values()}
    short = write_rows(tmp_path / "short.csv", {name: own[:3] for name, own in after.items()})
    with pytest.raises(ValueError, match=r"at least 4 values .*got 3 of 's0'"):
        loaded(tmp_path, test_file=str(short))


def test_repeating_a_season_has_the_error_1_in_sample() -> None:
    """A MASE of 1 is as good as the seasonal naive forecast was until now."""
    rng = np.random.default_rng(0)
    values = rng.normal(10, 1, 400)
    source = Forecasts(
        values, ("a",), np.array([0, 400]), {s: np.array([0]) for s in SPLITS},
        {s: np.array([400]) for s in SPLITS}, history=4, horizon=100, season=4,
    )  # fmt: skip
    _, y = source.draw("test", EpisodeSize(1, 1, 1), rng)[2:]
    error = float(np.abs(values[4:300] - values[:296]).mean())
    expected = float(np.abs(values[300:] - values[296:396]).mean()) / error
    naive = torch.tensor(values[296:396] / error)[None]
    assert mase(naive, torch.from_numpy(y), 1).item() == pytest.approx(expected, rel=1e-5)
    assert 0.8 < expected < 1.2


def test_smape_is_as_in_m4() -> None:
    values, targets = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[3.0, 3.0]]])
    assert smape(values, targets, 1).tolist() == [0.5]
    assert smape(100 * values, 100 * targets, 1).tolist() == [0.5]
    assert smape(torch.zeros(1, 2), torch.zeros(1, 2), 1).item() == 0
    assert smape(-targets, targets, 1).tolist() == [2.0]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"a": [1, 2]}, {}, r"must have 22 values in split 'train' .*got 2 \(series 'a'\)"),
        ({"a": [1, "x"]}, {}, r"line 2 of .* numbers without gaps, got 'x'"),
        ({"a": [1, "", 3]}, {}, r"numbers without gaps, got ''"),
        ({"a": []}, {}, r"line 2 of .* must be a name and numbers"),
        ({"a": [1, 2]}, {"file": ""}, r"task\.file must be a table of series"),
        ({"a": [1, 2]}, {"split_ratio": (0, 0, 0)}, r"task\.split_ratio"),
        ({"a": [1, 2]}, {"sha256": "0"}, r"the file that the run was begun with"),
    ],
)
def test_wrong_files_are_refused(
    tmp_path: Path, rows: Any, options: dict[str, Any], message: str
) -> None:
    file = write_rows(tmp_path / "t.csv", rows)
    given = {"file": str(file), "split_ratio": (1, 0, 0), **WINDOW, "horizon": 4, **options}
    with pytest.raises(ValueError, match=message):
        load_forecast(**given).check("train", EpisodeSize(1, 3, 2))


def test_two_series_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("V1,V2\na,1\na,2\n")
    with pytest.raises(ValueError, match="got 'a' twice"):
        load_forecast(file=str(path))


def test_a_run_forecasts_what_repeats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {f"s{g}": (10 * g + 5 + np.tile(rng.normal(size=4), 20)).tolist() for g in range(10)}
    noisy = {name: [v + 0.5 * rng.normal() for v in own] for name, own in rows.items()}
    settings = {
        "task": "forecast", "task.file": str(write_rows(tmp_path / "t.csv", noisy)),
        "task.horizon": 4, "task.history": 4, "task.season": 4, "task.shots": 5,
        "model.season": 4, "algorithm": "maml", "algorithm.inner_lr": 0.001, "loss": "l1",
        "joint_baseline": False, "runtime": "local", "steps": 20, "eval.every": 0,
        "eval.num_tasks": 8, "meta_batch_size": 4, "run_dir": str(tmp_path / "run"),
    }  # fmt: skip
    result = dmeta.train(settings)
    assert result.test.metric == "smape"
    assert result.test.value < 0.3
    assert result.test.further["mase"].transductive.mean < 2


def test_mase_is_refused_where_targets_are_in_other_units(tmp_path: Path) -> None:
    settings = {"task": "sinusoid", "runtime": "local", "run_dir": str(tmp_path / "run")}
    with pytest.raises(ValueError, match=r"metric mase must be of a task source .*got sinusoid"):
        dmeta.train(settings | {"eval.metrics": ["mse", "mase"]})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_m4_hourly() -> None:
    root = real_data("time-series") / "time-series"
    source = load_forecast(
        file=str(root / "m4-hourly-train.csv"), test_file=str(root / "m4-hourly-test.csv"),
        horizon=48, history=72, season=24, split_by="example",
    )  # fmt: skip
    assert len(source.series_names) == 60
    assert sorted(set(np.diff(source.starts).tolist())) == [748, 1008]
    first = source.values[source.starts[0] : source.starts[1]]
    assert first[[0, 700]].tolist() == [605, 619]
