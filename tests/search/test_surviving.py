"""Whole searches on a small cluster that are stopped, fail, or find what others left."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmeta.runs.checkpoint import open_checkpoints, steps_in
from dmeta.runs.metrics import read_metrics
from dmeta.search import Choice, SearchStopped, Space, tune_callback
from tests.conftest import tiny_config
from tests.search.searches import (
    HALF,
    Failing,
    Watching,
    outcome,
    outcome_of_half,
    results_of,
    search,
    table,
)

# Tune's loggers leave the files of a search that is stopped to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("cluster"),
]


@pytest.mark.slow
def test_a_stopped_search_goes_on_to_the_same_results(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_callback, "_EVERY_S", 0.0)  # however fast the trials are
    run_dir = tmp_path / "stopped"
    stopped = Watching(signal_at=(2, 2))
    with pytest.raises(SearchStopped):
        search(run_dir, watching=stopped, max_concurrent=1)
    before = {p: p.stat().st_mtime_ns for p in run_dir.glob("trials/*/results.json")}
    assert not before  # nothing is evaluated on test tasks yet
    assert not (run_dir / "results.json").exists()
    begun = {p.name: steps_in(open_checkpoints(p, None)) for p in (run_dir / "trials").iterdir()}
    assert 1 <= len(begun) <= 3
    with pytest.raises(ValueError, match="add resume=true"):
        search(run_dir, max_concurrent=1)
    with pytest.raises(ValueError, match="of another search;"):
        search(run_dir, max_concurrent=2, resume=True)
    search(run_dir, max_concurrent=1, resume=True)
    assert outcome(run_dir) == outcome(whole)
    assert results_of(run_dir)["test"]["evaluation"] == results_of(whole)["test"]["evaluation"]
    assert {p.name for p in (run_dir / "trials").iterdir()} == {
        p.name for p in (whole / "trials").iterdir()
    }
    for path in (run_dir / "trials").iterdir():  # no step was taken twice
        steps = [r["step"] for r in read_metrics(path) if r["event"] == "val"]
        assert steps == [2, 4, 6]


@pytest.mark.slow
def test_a_search_that_is_through_can_be_concluded_again(tmp_path: Path) -> None:
    """As when it was stopped while the best was evaluated."""
    run_dir, space = tmp_path / "search", Space({"outer.lr": Choice((0.001, 0.01))})
    search(run_dir, space)
    first = results_of(run_dir)
    (run_dir / "results.json").unlink()
    search(run_dir, space, resume=True)
    assert len(table(run_dir)) == 2
    for key in ("best", "test", "trials"):
        assert results_of(run_dir)[key] == first[key]


@pytest.mark.slow
def test_a_validation_that_was_lost_is_made_up_for(whole: Path, tmp_path: Path) -> None:
    """As when the trial was killed between the checkpoint of a step and its report."""
    run_dir = tmp_path / "search"
    search(run_dir, HALF, evaluate_best=False)
    row = table(run_dir)[0]
    reports = Path(row["run_dir"]) / "reports.jsonl"
    lines = reports.read_text().splitlines()
    reports.write_text("\n".join(lines[:-1]) + "\n")
    for path in (run_dir / "tune").glob("experiment_state*"):
        path.unlink()
    search(run_dir, HALF, evaluate_best=False, resume=True)
    assert outcome(run_dir) == outcome_of_half(whole)


def test_a_folder_that_is_no_search_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "tuner.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(ValueError, match="a folder tune of no search"):
        search(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tune"]


@pytest.mark.slow
def test_a_search_that_forgot_its_trials_computes_nothing_twice(
    whole: Path, tmp_path: Path
) -> None:
    """As when it is killed before Tune has saved its state: the runs are there, and are taken."""
    run_dir = tmp_path / "again"
    search(run_dir, HALF, evaluate_best=False)
    for path in (run_dir / "tune").glob("experiment_state*"):
        path.unlink()
    files = {p: p.stat().st_mtime_ns for p in run_dir.glob("trials/*/checkpoints/*/*")}
    assert files
    search(run_dir, HALF, evaluate_best=False, resume=True)
    assert outcome(run_dir) == outcome_of_half(whole)
    assert {p: p.stat().st_mtime_ns for p in run_dir.glob("trials/*/checkpoints/*/*")} == files


@pytest.mark.slow
@pytest.mark.parametrize(("times", "status"), [(1, "finished"), (99, "failed")])
def test_a_trial_that_fails_is_tried_again_then_marked_and_ends_no_search(
    tmp_path: Path, times: int, status: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "failures"
    folder.mkdir()
    space = Space({"outer.lr": Choice((0.001, 0.01))})
    config = tiny_config("unused", eval__every=2, device="cpu")
    search(
        tmp_path / "search",
        space,
        configure=Failing(config, folder, times),
        max_failures=1,
        evaluate_best=False,
    )
    rows = {row["outer.lr"]: row for row in table(tmp_path / "search")}
    assert rows["0.001"]["status"] == "finished"
    assert rows["0.01"]["status"] == status
    assert rows["0.01"]["failures"] == str(min(times, 2))
    if status == "failed":
        assert "the disk of this node is on fire" in rows["0.01"]["error"]
    assert results_of(tmp_path / "search")["best"]["number"] in (1, 2)


@pytest.mark.slow
def test_a_trial_that_diverges_is_marked_and_is_not_the_best(tmp_path: Path) -> None:
    space = Space({"algorithm.inner_lr": Choice((0.01, 1e30))})
    search(tmp_path / "search", space, settings={"max_rejected": 2}, evaluate_best=False)
    rows = {row["algorithm.inner_lr"]: row for row in table(tmp_path / "search")}
    assert rows["0.01"]["status"] == "finished"
    assert rows["1e+30"]["status"] == "diverged"
    assert rows["1e+30"]["score"] == ""
    assert rows["1e+30"]["failures"] == "0"  # the same bits would come again
    assert results_of(tmp_path / "search")["best"]["point"] == {"algorithm.inner_lr": 0.01}


def test_what_others_may_have_written_is_not_gone_on_with(whole: Path) -> None:
    """Tune unpickles what it finds."""
    path = whole / "tune" / "tuner.pkl"
    mode = path.stat().st_mode
    path.chmod(mode | 0o002)
    try:
        with pytest.raises(ValueError, match="anyone can write to"):
            search(whole, resume=True)
    finally:
        path.chmod(mode)
