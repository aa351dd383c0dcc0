from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.processes import MARK, is_alive, none_left, started
from tests.cluster.fake_slurm import JOB, SCRIPT, calls, sbatch, slurm
from tests.conftest import TINY

# Installed beside this Python, which need not be active; or elsewhere.
SHELLCHECK = shutil.which(
    "shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
)
RUN = TINY | {"steps": 3, "runtime": "ray", "runtime.num_workers": 2, "task": "sinusoid"}


@pytest.fixture
def played(tmp_path):
    """Slurm, Ray and dmeta, all played; what the script makes under /tmp is taken away."""
    environment = slurm(tmp_path, plays_ray=True)
    environment["SLURM_JOB_ID"] = job = str(secrets.randbelow(10**9))
    yield tmp_path, environment, Path(f"/tmp/ray-{job}")
    shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def test_the_script_is_sound() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    done = subprocess.run([SHELLCHECK, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_head_then_the_workers_then_the_run_and_all_is_put_away(played) -> None:
    folder, environment, ray_folder = played
    environment["SLURM_CPUS_PER_TASK"] = "3"
    code, said = finished(sbatch(folder, environment, "train", "steps=7", "run_dir=mine"))
    assert code == 0, said
    heard = [line for line in calls(folder) if not line.startswith("ray health-check")]
    port = 20000 + int(environment["SLURM_JOB_ID"]) % 10000
    starts = [line for line in heard if line.startswith("ray start")]
    assert len(starts) == 2
    assert "--head --node-ip-address=127.0.0.1" in starts[0]
    assert f"--port={port}" in starts[0]
    assert f"--address=127.0.0.1:{port}" in starts[1]
    assert all("--block --num-cpus=3" in start for start in starts)
    tasks = [line for line in heard if line.startswith("srun") and "ray start" in line]
    assert len(tasks) == 2
    assert all("--cpus-per-task=3" in task for task in tasks)
    [run] = [line for line in heard if line.startswith("dmeta train")]
    job = environment["SLURM_JOB_ID"]
    assert run == (
        f"dmeta train run_dir=runs/slurm-{job} steps=7 run_dir=mine resume=auto "
        "runtime.address=auto"
    )
    assert heard.index(starts[1]) < heard.index(run) < heard.index("ray ended")
    assert heard.count("ray ended") == 2
    assert not any("requeue" in line for line in heard)
    assert not ray_folder.exists()
    assert list((folder / "state").iterdir()) == []


def test_nobody_else_reads_the_token(played) -> None:
    folder, environment, _ = played
    assert finished(sbatch(folder, environment, "train"))[0] == 0
    modes = (folder / "modes.txt").read_text().splitlines()
    assert {line.split()[0] for line in modes if line.endswith("/auth_token")} == {"600"}
    assert {line.split()[0] for line in modes if not line.endswith("/auth_token")} == {"700"}
    assert len(modes) == 4


def test_a_run_that_slurm_stops_is_queued_again_when_all_is_put_away(played) -> None:
    folder, environment, ray_folder = played
    environment["FAKE_DMETA_LASTS"] = "600"
    process = sbatch(folder, environment, "train")
    while "dmeta at work" not in calls(folder):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, said = finished(process)
    assert code == 0, said
    assert calls(folder)[-1] == f"scontrol requeue {environment['SLURM_JOB_ID']}"
    assert calls(folder).count("ray ended") == 2
    assert not ray_folder.exists()


def test_a_run_that_fails_ends_the_job_with_its_code_and_is_not_queued_again(played) -> None:
    folder, environment, _ = played
    environment["FAKE_DMETA_CODE"] = "2"
    assert finished(sbatch(folder, environment, "tune"))[0] == 2
    assert not any("requeue" in line for line in calls(folder))
    assert calls(folder).count("ray ended") == 2


def test_a_head_that_does_not_start_is_told_of(played) -> None:
    folder, environment, _ = played
    environment["FAKE_RAY_FAILS"] = "1"
    code, said = finished(sbatch(folder, environment, "train"))
    assert code == 1
    assert "the head did not start: no port is free" in said
    assert not any(line.startswith("dmeta") for line in calls(folder))
    assert list((folder / "state").iterdir()) == []


@pytest.mark.parametrize("words", [(), ("evaluate",), ("steps=3",)])
def test_a_verb_that_can_not_go_on_is_refused(played, words) -> None:
    folder, environment, _ = played
    code, said = finished(sbatch(folder, environment, *words))
    assert code == 2
    assert "must be train or tune, got" in said
    assert calls(folder) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by their environment in /proc")
def test_a_run_on_two_real_raylets_gives_the_bits_of_a_local_one_and_leaves_nothing(
    tmp_path,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = slurm(tmp_path, plays_ray=False) | MARK
    environment |= {
        "SLURM_JOB_ID": f"{JOB}{port}",
        "DMETA_RAY_PORT": str(port),
        "DMETA_RAY_START": "--node-ip-address=127.0.0.1 --object-store-memory=100000000",
    }
    words = [f"{key}={value}" for key, value in RUN.items()]
    with none_left():
        code, said = finished(sbatch(tmp_path, environment, "train", *words, "run_dir=cluster"))
        assert code == 0, said
        assert [process for process in started() if is_alive(process)] == []
    assert not Path(f"/tmp/ray-{JOB}{port}").exists()
    local = [sys.executable, "-m", "dmeta", "train", *words, "runtime=local", "run_dir=local"]
    subprocess.run(local, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    ours, theirs = (
        json.loads((tmp_path / run / "results.json").read_text()) for run in ("cluster", "local")
    )
    assert ours["runtime"]["num_workers"] == 2  # one CPU a node
    assert ours["meta_params_sha256"] == theirs["meta_params_sha256"]
