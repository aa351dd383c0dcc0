"""log.jsonl: warnings with what they are about, and how a run began and ended."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmeta.cli.train import train
from dmeta.launch import open_runtime
from dmeta.runs.log import run_log
from dmeta.training.interrupts import Stopped
from dmeta.training.run import train_and_test
from dmeta.training.session import Session
from dmeta.training.setup import prepare
from tests.conftest import tiny_config
from tests.runs.test_files import full_at

_LOG = logging.getLogger("dmeta.somewhere")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_warning_has_its_fields_and_is_shown_as_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with run_log(tmp_path, "r-1", {"step": 7}):
        _LOG.warning("worker %d is lost", 3, extra={"worker": 3, "step": 8, "block": 1})
        _LOG.info("nothing to keep")
    _LOG.warning("of no run")
    begun, warning, ended = lines(tmp_path)
    assert (begun["event"], begun["step"], begun["run"]) == ("begun", 7, "r-1")
    assert ended["event"] == "ended"
    assert warning.pop("time").endswith("+00:00")
    assert warning == {
        "level": "WARNING", "run": "r-1", "logger": "dmeta.somewhere", "step": 8, "block": 1,
        "worker": 3, "message": "worker 3 is lost",
    }  # fmt: skip
    assert caplog.messages == ["worker 3 is lost", "of no run"]


@pytest.mark.parametrize(
    ("error", "level", "event", "message"),
    [
        (ZeroDivisionError("no tasks"), "ERROR", "failed", "ZeroDivisionError: no tasks"),
        (Stopped(7, 15), "INFO", "stopped", "stopped after step 7, which is kept"),
        (KeyboardInterrupt(), "INFO", "stopped", "interrupted"),
    ],
)
def test_how_a_run_ends_is_kept(
    error: BaseException, level: str, event: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(type(error)), run_log(tmp_path, "r", {}):
        raise error
    last = lines(tmp_path)[-1]
    assert (last["level"], last["event"], last["message"]) == (level, event, message)
    assert logging.getLogger("dmeta").handlers == []


def test_that_it_can_not_be_written_is_told_once_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with run_log(tmp_path, "r", {}):
        there = (tmp_path / "log.jsonl").stat().st_size
        with full_at(there + 9):
            _LOG.warning("one")
            _LOG.warning("two")
        assert [each.split("/")[0] for each in caplog.messages] == [
            "cannot write to ", "one", "two",
        ]  # fmt: skip
    assert [each["message"] for each in lines(tmp_path)] == ["begun", "one", "two", "ended"]


def test_without_logging_set_up_warnings_still_reach_the_screen(tmp_path: Path) -> None:
    code = (
        "import logging, sys\nfrom pathlib import Path\n"
        "from dmeta.runs.log import run_log\n"
        "with run_log(Path(sys.argv[1]), 'r', {}):\n"
        "    logging.getLogger('dmeta.x').warning('look here')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert done.stderr == "look here\n"


@pytest.mark.slow
def test_a_run_keeps_its_id_when_it_is_resumed_and_says_where_it_ran(tmp_path: Path) -> None:
    train(tiny_config(tmp_path / "a", steps=2))
    train(tiny_config(tmp_path / "a", steps=4, resume=True))
    found = lines(tmp_path / "a")
    assert [(each["event"], each.get("step")) for each in found] == [
        ("begun", 0), ("ended", None), ("begun", 2), ("ended", None),
    ]  # fmt: skip
    assert len({each["run"] for each in found}) == 1
    assert found[0]["run"].startswith("a-")
    assert found[0]["hardware"]["cpu_count"] > 0
    assert found[0]["runtime"]["name"] == "local"


def test_a_rejected_step_is_in_the_log(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=1, outer__reject_norm=1e-30)
    train_and_test(Session(prepare(config), tmp_path, open_runtime))
    (warning,) = [each for each in lines(tmp_path) if each["level"] == "WARNING"]
    assert (warning["step"], warning["block"]) == (0, 0)
    assert "dmeta replay" in warning["message"]


def test_what_follows_a_torn_line_is_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "begun", "st')
    with run_log(tmp_path, "r-1", {"step": 7}):
        pass
    torn, *rest = (tmp_path / "log.jsonl").read_text().splitlines()
    assert torn == '{"event": "begun", "st'
    assert [json.loads(line)["event"] for line in rest] == ["begun", "ended"]
