"""`dmeta status` of a run: what its files say, while it goes on too, and from an address."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import dmeta
from dmeta.cli import main
from dmeta.cli import status as status_command
from dmeta.runs import heartbeat, status
from dmeta.runs.heartbeat import MARK
from dmeta.runs.liveness import Signs, judge
from dmeta.runs.lock import only_one_in
from dmeta.runs.remote_mirror import DistantFolder
from tests.conftest import TINY
from tests.runs.status_lines import told

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is through: 6 steps, validated at 3 and 6."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    dmeta.train(TINY | {"run_dir": str(run_dir)})
    return run_dir


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """The same, as if it had been killed after its last step."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "results.json").unlink()
    edit_log(run_dir, lambda rows: rows[:1])
    return run_dir


def edit_log(run_dir: Path, change: Any) -> None:
    path = run_dir / "log.jsonl"
    rows = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def elsewhere(run_dir: Path) -> None:
    """Let the run have begun on another machine."""
    edit_log(run_dir, lambda rows: [{**rows[0], "host": "far-away"}, *rows[1:]])


def grow_old(run_dir: Path, seconds: float) -> None:
    for path in [run_dir, *run_dir.rglob("*")]:
        os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.slow
def test_a_finished_run(finished: Path) -> None:
    found = status.run_status(finished)
    assert (found.state, found.step, found.steps, found.checkpoint_step) == ("finished", 6, 6, 6)
    assert found.run is not None
    assert found.run.startswith("finished-")
    assert (found.val or {})["step"] == 6
    assert found.eta_s == 0
    assert 0 <= (found.checkpoint_age_s or 0) < 3600
    lines = told(finished).splitlines()
    assert lines[0] == f"{finished}: finished"
    assert lines[2].startswith("progress   step 6/6 (100%), ")
    assert any(line.startswith("validation mse ") and "4 tasks" in line for line in lines)
    assert "faults     0 blocks retried, 0 duplicated (stragglers), 0 steps rejected" in lines
    assert any(line.startswith("hardware   ") for line in lines)
    as_json = json.loads(told(finished, "json=true"))
    assert (as_json["state"], as_json["run"]) == ("finished", found.run)
    assert as_json["val"]["ci95"] > 0


def test_a_run_that_goes_on_is_known_by_its_lock(unfinished: Path) -> None:
    with only_one_in(unfinished):
        assert "running (last sign of life 0:" in told(unfinished).splitlines()[0]
    assert "stopped (no process works in its folder)" in told(unfinished).splitlines()[0]
    with only_one_in(unfinished / "joint_baseline"):
        assert "running (training the network to compare it with" in told(unfinished)


def test_a_run_that_is_just_beginning(tmp_path: Path) -> None:
    with only_one_in(tmp_path / "new"):
        found = status.run_status(tmp_path / "new")
    assert (found.state, found.step, found.steps, found.began) == ("starting", 0, None, None)


def test_a_run_on_another_machine_is_known_by_its_files(unfinished: Path) -> None:
    elsewhere(unfinished)
    assert "running (last sign of life 0:0" in told(unfinished)
    assert "its lock cannot be seen from this machine" in told(unfinished)
    grow_old(unfinished, 7200)
    assert "stopped (last sign of life 2:00:00 ago, and no lock that" in told(unfinished)


def test_a_slow_run_may_be_silent_for_longer(unfinished: Path) -> None:
    elsewhere(unfinished)
    rows = [{"event": "train", "step": s, "seconds": 100.0 * s} for s in (1, 2, 3)]
    (unfinished / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    grow_old(unfinished, 400)
    assert status.run_status(unfinished).state == "running"
    grow_old(unfinished, 600)
    assert status.run_status(unfinished).state == "stopped"


def test_a_run_that_failed_says_why_until_it_goes_on(unfinished: Path) -> None:
    failed = {"event": "failed", "message": "RuntimeError: no worker is left"}
    edit_log(unfinished, lambda rows: [*rows, failed])
    assert "failed (RuntimeError: no worker is left)" in told(unfinished)
    edit_log(unfinished, lambda rows: [*rows, {**rows[0], "step": 6}])
    assert status.run_status(unfinished).state == "stopped"


def test_a_run_that_was_told_to_stop_says_where_and_how_to_go_on(unfinished: Path) -> None:
    stopped = {"event": "stopped", "message": "stopped after step 4, which is kept"}
    edit_log(unfinished, lambda rows: [*rows, stopped])
    lines = told(unfinished).splitlines()
    assert lines[0] == f"{unfinished}: stopped (after step 4, which is kept)"
    assert lines[-1] == f"continue   dmeta train run_dir={unfinished} resume=true"


def test_a_trial_of_a_search_has_no_results_of_its_own(unfinished: Path) -> None:
    edit_log(unfinished, lambda rows: [*rows, {"event": "ended"}])
    assert status.run_status(unfinished).state == "stopped"
    trial = unfinished.parent / "trials" / "ab12"
    shutil.copytree(unfinished, trial)
    (unfinished.parent / "search.json").write_text("{}")
    assert status.run_status(trial).state == "finished"


def test_a_run_that_is_to_be_longer_is_not_finished_by_its_old_results(finished: Path) -> None:
    later = finished.parent / "later"
    shutil.copytree(finished, later)
    config = json.loads((later / "config.json").read_text())
    config["settings"]["steps"] = 9
    (later / "config.json").write_text(json.dumps(config))
    edit_log(later, lambda rows: rows[:1])
    found = status.run_status(later)
    assert (found.state, found.step, found.steps) == ("stopped", 6, 9)
    assert (found.eta_s or 0) > 0


def test_the_time_left_is_that_of_the_last_lines(unfinished: Path) -> None:
    def train(step: int, seconds: float) -> dict[str, Any]:
        counts = {"rejected": 1, "retried_blocks": 2, "copied_blocks": 3}
        speed = {"tasks_per_second": 40.0, "seconds": seconds, "loss": 0.5}
        return {"event": "train", "step": step, **counts, **speed}

    rows = [train(1, 50.0), train(2, 52.0), {"event": "rejected", "step": 3}, train(3, 54.0)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (unfinished / "metrics.jsonl").write_text(lines + '{"event": "tra')
    shutil.rmtree(unfinished / "checkpoints")
    found = status.run_status(unfinished)
    assert (found.step, found.eta_s, found.checkpoint_step) == (3, 3 * 2.0, None)
    assert (found.rejected_steps, found.retried_blocks, found.copied_blocks) == (1, 2, 3)
    assert "progress   step 3/6 (50%), 40.0 tasks/s\n" in told(unfinished)
    with only_one_in(unfinished):
        assert "progress   step 3/6 (50%), 40.0 tasks/s, 0:06 left\n" in told(unfinished)
    assert "checkpoint none yet" in told(unfinished)


@pytest.mark.parametrize(
    ("locked", "here", "silent_s", "through", "failure", "state"),
    [
        (True, True, 1e6, False, None, "running"),
        (True, True, 1.0, True, "of before", "running"),
        (False, True, 1.0, True, None, "finished"),
        (False, True, 1.0, False, "why", "failed"),
        (False, True, 1.0, False, None, "stopped"),
        (None, True, 1.0, False, None, "running"),
        (None, True, 99.0, False, None, "stopped"),
        (False, False, 1.0, False, None, "running"),
        (False, False, 99.0, False, None, "stopped"),
        (False, False, None, False, None, "stopped"),
    ],
)
def test_what_signs_mean(
    locked: bool | None,
    here: bool,
    silent_s: float | None,
    through: bool,
    failure: str | None,
    state: str,
) -> None:
    assert judge(Signs(locked, here, silent_s, True, through, failure)).state == state


def test_neither_torch_nor_ray_is_imported(finished: Path) -> None:
    code = (
        "import sys; from dmeta.cli.main import main; main(['status', 'run_dir=' + sys.argv[1]]); "
        "assert not {'torch', 'ray', 'hydra', 'tensorboardX'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(finished)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run_dir=nowhere"], "run_dir must hold a run or a search, got nowhere, which is no fold"),
        (["run_dir=empty"], "got empty, which is an empty or another folder; correct run_dir"),
        (
            ["run_dir=damaged"],
            "damaged/config.json must be an object in JSON as dmeta writes it, got no JSON",
        ),
        (
            ["run_dir=other"],
            "got 5 for settings, which is an object; it was altered or truncated: r",
        ),
        ([], "run_dir must be given, got nothing; add run_dir=FOLDER"),
        (["run_dir=empty", "json=yes"], "json must be true or false, got 'yes'; choose one"),
        (["run_dir=empty", "color=1"], "takes run_dir=FOLDER json=true watch=true, got run_dir"),
        (["--all"], "dmeta status takes run_dir=FOLDER json=true watch=true, got --all"),
    ],
)
def test_what_can_not_be_told_is_refused(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("damaged", '{"settings": '), ("other", '{"settings": 5}')):
        Path(name).mkdir()
        Path(name, "config.json").write_text(content)
    Path("empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        main.main(["status", *arguments])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_watching_ends_with_the_run_and_says_only_what_is_new(
    unfinished: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three looks at a run that goes on, then at one that ended."""
    lock, looks = ExitStack(), []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            lock.close()

    monkeypatch.setattr(time, "sleep", look)
    lock.enter_context(only_one_in(unfinished))
    status_command.watch(unfinished, console, status_command._as_text, 2.0)
    assert looks == [2.0, 2.0, 2.0, 2.0, 0]
    assert isinstance(console.file, io.StringIO)
    firsts = [each for each in console.file.getvalue().splitlines() if f"{unfinished}: " in each]
    assert [each.split()[1] for each in firsts] == ["running", "stopped"]


def test_ctrl_c_ends_watching_quietly(
    unfinished: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with only_one_in(unfinished):
        status_command.watch(unfinished, console, status_command._as_json)
    assert isinstance(console.file, io.StringIO)
    assert json.loads(console.file.getvalue())["state"] == "running"


@pytest.fixture
def address(unfinished: Path) -> str:
    """The unfinished run at an address, its mark renewed now."""
    place = f"memory://{uuid.uuid4().hex}/run"
    for path in unfinished.rglob("*"):
        if path.is_file():
            name = path.relative_to(unfinished).as_posix()
            DistantFolder(place).write(name, path.read_bytes())
    DistantFolder(place).write(MARK, b"{}")
    return place


def test_a_run_at_an_address(
    address: str, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = told(address).splitlines()
    assert lines[0] == f"{address}: running (last sign of life 0:00 ago)"
    assert lines[1:3] == told(unfinished).splitlines()[1:3]
    assert "checkpoint step 6" in lines
    monkeypatch.setattr(
        "dmeta.runs.remote_status.SILENCE_S", 0.0
    )  # the mark is that of a killed one
    assert "stopped (no process works in its folder)" in told(address)
    assert f"dmeta train run_dir={address} resume=true" in told(address)
    DistantFolder(address).remove(MARK)
    assert "stopped (no process works in its folder)" in told(address)


def test_a_run_at_an_address_is_as_silent_as_its_files(address: str) -> None:
    found = status_command.status(address)
    assert 0 <= (found.silent_s or 0) < 60
    files = DistantFolder(address)._files
    for entry in files.store.values():
        entry.modified -= timedelta(hours=1)
    assert 3600 <= (status_command.status(address).silent_s or 0) < 3700


def test_an_address_without_a_run_is_refused() -> None:
    with pytest.raises(ValueError, match="got the address memory://nowhere with none"):
        status_command.status("memory://nowhere")


def test_a_run_at_an_address_whose_process_was_killed_here_is_stopped(address: str) -> None:
    assert run_status_of(address) == "running"
    dead = {"machine": heartbeat._machine(), "pid": os.getpid(), "started": 1}
    DistantFolder(address).write(MARK, json.dumps(dead).encode())
    assert run_status_of(address) == "stopped"


def run_status_of(address: str) -> str:
    return status_command.status(address).state
