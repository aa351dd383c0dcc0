"""A short schedule on a real training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = 400
EVENTS = ("worker_kill@50", "raylet_kill@120", "driver_kill@260")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by their environment in /proc")
def test_killed_workers_nodes_and_drivers_change_no_bit_and_leave_no_process(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.json"
    words = (*EVENTS, f"--steps={STEPS}", "--set=checkpoint.every=50", f"--out={out}")
    inherited = os.environ.get("PYTHONPATH")
    path = f"{ROOT}:{inherited}" if inherited else str(ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "at", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [outcome] = json.loads(out.read_text())["outcomes"]
    assert outcome["same_bits"] is True
    assert outcome["orphans"] == []
    assert outcome["num_resumes"] == 1
    faults = {occurrence["fault"]: occurrence for occurrence in outcome["occurrences"]}
    assert list(faults) == [event.partition("@")[0] for event in EVENTS]
    assert faults["worker_kill"]["num_resumes"] == faults["raylet_kill"]["num_resumes"] == 0
    assert 0 < faults["driver_kill"]["steps_recomputed"] <= 50 + 10  # and what went on unseen
