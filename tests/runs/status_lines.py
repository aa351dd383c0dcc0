"""What `dmeta status` shows."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dmeta.cli import main
from dmeta.cli import status as status_command


def told(run_dir: Path | str, *more: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status_command, "Console", lambda: console)
        main.main(["status", f"run_dir={run_dir}", *more])
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()
