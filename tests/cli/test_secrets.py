"""The token of the Ray cluster stays where it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "5ec2e7" * 10 + "5ec2"


@pytest.mark.slow
def test_the_token_is_neither_shown_nor_written_into_the_run_directory(tmp_path: Path) -> None:
    file = tmp_path / "home" / ".ray" / "auth_token"
    file.parent.mkdir(parents=True)
    file.touch(0o600)
    file.write_text(TOKEN)
    cleared = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {key: value for key, value in os.environ.items() if key not in cleared}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    run_dir = tmp_path / "run"
    settings = ["steps=2", "joint_baseline=false", "eval.val_tasks=4", "eval.num_tasks=4"]
    settings += ["compute.plan=vmap", "runtime.num_workers=1", f"run_dir={run_dir}"]
    command = [sys.executable, "-m", "dmeta", "train", *settings]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    written = [path for path in run_dir.rglob("*") if path.is_file()]
    assert {"results.json", "config.json", "metrics.jsonl"} <= {path.name for path in written}
    assert TOKEN.encode() not in done.stdout + done.stderr
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
