"""Searches whose folder is at an address: as in a folder, and nothing of them is left here."""

from __future__ import annotations

from pathlib import Path

import pytest

import dmeta
from dmeta.cli.status import status
from dmeta.runs.metrics import read_metrics
from dmeta.search import Interval, SearchStopped, Space, tune_callback
from tests.search.searches import Watching, outcome, results_of, search, table

# Tune's loggers leave the files of a search that is stopped to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("cluster"),
]


@pytest.mark.slow
def test_a_search_at_an_address_is_stopped_and_goes_on_to_the_same_results(
    whole: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_callback, "_EVERY_S", 0.0)  # however fast the trials are
    there = tmp_path / "there"
    address = f"shared://{there}"
    with pytest.raises(SearchStopped):
        search(address, watching=Watching(signal_at=(2, 2)), max_concurrent=1)
    assert not (there / "results.json").exists()
    assert 1 <= len(list((there / "trials").iterdir())) <= 3
    with pytest.raises(ValueError, match=r"run_dir must be new, got shared://.*add resume=true"):
        search(address, max_concurrent=1)

    search(address, max_concurrent=1, resume=True)

    assert outcome(there) == outcome(whole)
    found, expected = results_of(there), results_of(whole)
    assert found["test"]["evaluation"] == expected["test"]["evaluation"]
    assert found["best"]["run_dir"].startswith(f"{address}/trials/")
    assert [row["run_dir"].rpartition("/")[0] for row in table(there)] == [f"{address}/trials"] * 4
    for name in ("best.yaml", "report.html", "tune/tuner.pkl"):
        assert (there / name).exists()
    for path in (there / "trials").iterdir():
        assert not (path / "running.json").exists()
        assert len((path / "reports.jsonl").read_text().splitlines()) == 3
    assert not any((cache / "runs").iterdir())
    assert status(address).state == "finished"
    assert {status(row["run_dir"]).state for row in table(there)} == {"finished"}
    result = dmeta.load(found["best"]["run_dir"])
    assert result.step == 6


@pytest.mark.slow
def test_trials_of_a_population_hand_over_at_an_address(tmp_path: Path, cache: Path) -> None:
    there = tmp_path / "there"
    search(
        f"shared://{there}",
        Space({"outer.lr": Interval(1e-5, 3e-2, log=True)}),
        sampler="random",
        scheduler="pbt",
        num_trials=4,
        evaluate_best=False,
        settings={"steps": 12, "meta_batch_size": 10},
    )
    assert {row["step"] for row in table(there)} == {"12"}
    folders = list((there / "trials").iterdir())
    assert len(folders) > 4
    # These have no steps of their own before those that they took over.
    assert any(min(row["step"] for row in read_metrics(path)) > 2 for path in folders)
    assert not any((cache / "runs").iterdir())
