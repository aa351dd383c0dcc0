"""No observer, tracker or figure ends a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from dmeta.reports.run_report import draw_run
from dmeta.runs.layout import LOG
from dmeta.runtime.local import LocalRuntime
from dmeta.runtime.messages import StepReport
from dmeta.runtime.protocol import Runtime
from dmeta.tasks.source import DrawnTask, EpisodeSize, Split
from dmeta.training.nonfatal import guarded, warned_of
from dmeta.training.run import run_session
from dmeta.training.session import Session
from dmeta.training.setup import Run, prepare
from tests.cli.test_python import Lines
from tests.conftest import tiny_config


def local(run: Run) -> Runtime:
    return LocalRuntime(run.work, run.outer, "cpu", 1)


class Failing:
    """An observer that always fails."""

    def __init__(self) -> None:
        self.calls = 0

    def on_row(self, row: object) -> None:
        self.calls += 1
        raise RuntimeError("no connection")

    def on_phase(self, what: str) -> None:
        self.on_row(what)

    def on_step(self, step: int, report: StepReport) -> None:
        self.on_row(step)


def test_an_observer_that_fails_is_warned_of_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = run_session(Session(prepare(tiny_config(tmp_path / "a")), tmp_path / "a", local))
    failing = Failing()
    result = run_session(
        Session(prepare(tiny_config(tmp_path / "b")), tmp_path / "b", local, [failing])
    )
    assert result.meta_params_sha256 == quiet.meta_params_sha256
    assert failing.calls > 6, "it is called again"
    line = "Failing.on_step failed; the run continues (RuntimeError: no connection)"
    assert sum(line in record.getMessage() for record in caplog.records) == 1
    assert line in (tmp_path / "b" / LOG).read_text()


def test_an_interruption_passes() -> None:
    class Interrupting:
        def on_phase(self, what: str) -> None:
            raise KeyboardInterrupt

    [watcher] = guarded([Interrupting()])
    with pytest.raises(KeyboardInterrupt):
        watcher.on_phase("")
    assert guarded([watcher]) == [watcher]


class TwoOutputs(Lines):
    """y = (slope x, -slope x)."""

    def num_outputs(self, ways: int) -> int:
        return 2

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        task = super().draw(split, size, rng)
        both = [np.hstack([y, -y]) for y in (task.support_y, task.query_y)]
        return task._replace(support_y=both[0], query_y=both[1])


def test_a_regression_with_two_outputs_is_finished_with_the_figures_that_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = run_session(
        Session(prepare(tiny_config(tmp_path), source=TwoOutputs()), tmp_path, local), draw=draw_run
    )
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["test"]["transductive"]["mean"] == list(result.test.transductive.mean)
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"learning_curve.png", "inner_steps.png"}
    assert not caplog.records


def test_a_figure_that_can_not_be_drawn_is_a_warning_in_the_runs_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("no ink")

    monkeypatch.setattr("dmeta.reports.run_report.inner_step_curve", fail)
    result = run_session(Session(prepare(tiny_config(tmp_path)), tmp_path, local), draw=draw_run)
    assert result.test.num_tasks == 6
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"learning_curve.png", "adapted_functions.png"}
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    told = [line["message"] for line in lines if line["level"] == "WARNING"]
    assert told == ["figures/inner_steps.png could not be made: ZeroDivisionError: no ink"]
    assert [line.get("event") for line in lines if "event" in line] == ["begun", "ended"]


def test_a_folder_of_figures_that_can_not_be_made_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "figures").write_text("a file")
    result = run_session(Session(prepare(tiny_config(tmp_path)), tmp_path, local), draw=draw_run)
    assert result.test.num_tasks == 6
    assert "figures could not be made: FileExistsError" in caplog.text


def test_what_is_warned_of_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), warned_of("a page"):
        raise ValueError("torn")
    assert caplog.messages == ["a page could not be made: ValueError: torn"]
