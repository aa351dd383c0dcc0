"""A command line that is refused, and that nothing was started or written by it."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra

from dmeta.cli import main
from dmeta.runtime.cluster import connect
from dmeta.training.outer.server import OuterLoopFactory


class Started(BaseException):
    """Something was started; no `except Exception` hides it."""


@pytest.fixture
def nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, and an error if anything is started."""

    def start(*_: Any, **__: Any) -> None:
        raise Started

    # The first that a run of either kind does, once its settings are accepted: Ray is joined or
    # started, or the server is built in this process.
    monkeypatch.setattr(connect, "connect", start)
    monkeypatch.setattr(OuterLoopFactory, "build", start)
    # Hydra composes every command line twice, first to see whether it is a sweep; none is.
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DMETA_DATA", str(tmp_path / "no-data"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["dmeta"])


def content(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder, and what the files hold."""
    paths = sorted(folder.rglob("*"))
    return {str(p): p.read_bytes() if p.is_file() else None for p in paths}


def refusal(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which `dmeta LINE` ends."""
    before = content(Path())
    with pytest.raises(SystemExit) as stop:
        main.main(shlex.split(line))
    told = capsys.readouterr().err
    assert stop.value.code == 2, told
    assert len(re.findall(r"^dmeta: ", told, re.MULTILINE)) == 1
    assert "Traceback" not in told
    assert content(Path()) == before, "refused before anything is written"
    return told


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
