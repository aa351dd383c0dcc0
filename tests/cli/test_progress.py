"""What `dmeta.train` shows from Python: as much as the command line where somebody sees it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import dmeta
from dmeta.cli.terminal import display
from dmeta.cli.terminal.display import can_redraw, console_for
from tests.conftest import TINY


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_ci_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def settings(run_dir: Path, **changes: Any) -> dict[str, Any]:
    return TINY | {"run_dir": str(run_dir), "steps": 4} | changes


@pytest.mark.slow
def test_a_run_and_its_joint_baseline_show_their_progress_and_what_comes_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"joint_baseline": True, "compute.plan": "measure", "steps": 4}
    dmeta.train(settings(tmp_path / "run", **changes), progress=True)
    lines = capsys.readouterr().out.splitlines()
    main, joint = (i for i, line in enumerate(lines) if line.startswith("step 4/4 "))
    told = [i for i, line in enumerate(lines) if line.startswith("training the jointly")]
    timed = [i for i, line in enumerate(lines) if line.startswith("timing the execution plans of")]
    assert [timed[0], timed[1], main, told[0], joint] == sorted([*timed, main, *told, joint])
    assert "compiling one, where that can pay, takes 20 to 80 s" in lines[timed[0]]
    assert sum(line.startswith("evaluating on 6 test tasks") for line in lines) == 2
    assert lines[main - 1].startswith(f"writing to {tmp_path / 'run'}") or "step" in lines[main - 1]


@pytest.mark.slow
@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_shown_where_nobody_sees_it_or_wants_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], progress: bool | None
) -> None:
    dmeta.train(settings(tmp_path / "run", steps=1), progress=progress)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


@pytest.mark.slow
def test_a_terminal_has_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    dmeta.train(settings(tmp_path / "run", joint_baseline=True))
    text = sys.stdout.getvalue()
    assert "━" in text
    assert text.count("step 4/4") >= 2
    assert "\x1b[" in text


@pytest.mark.parametrize(
    ("progress", "out", "err", "where"),
    [
        (None, True, True, "stdout"),
        (None, False, True, "stderr"),
        (None, False, False, None),
        (True, False, False, "stdout"),
        (True, False, True, "stderr"),
        (False, True, True, None),
    ],
)
def test_progress_goes_where_it_is_seen(
    monkeypatch: pytest.MonkeyPatch, progress: bool | None, out: bool, err: bool, where: str | None
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal() if out else io.StringIO())
    monkeypatch.setattr(sys, "stderr", Terminal() if err else io.StringIO())
    console = console_for(progress)
    assert (None if console.quiet else console.file) is (where and getattr(sys, where))


@pytest.mark.parametrize(("has_widgets", "redrawn"), [(True, True), (False, False)])
def test_a_notebook_has_a_bar_where_its_widgets_are_installed(
    monkeypatch: pytest.MonkeyPatch, has_widgets: bool, redrawn: bool
) -> None:
    found = object() if has_widgets else None
    monkeypatch.setattr(display.importlib.util, "find_spec", lambda _: found)
    assert can_redraw(Console(force_jupyter=True)) is redrawn


def test_a_notebook_shows_progress_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert not console_for(None).quiet
