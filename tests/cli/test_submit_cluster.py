"""`dmeta submit` on a real cluster of one node: exit codes, detaching, stopping, retries, bits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import dmeta

pytestmark = pytest.mark.slow

ROOT = str(Path(__file__).parents[2])
SETTINGS = {
    "task": "sinusoid",
    "steps": 300,
    "meta_batch_size": 4,
    "joint_baseline": False,
    "eval.every": 0,
    "eval.num_tasks": 4,
    "checkpoint.every": 50,
    "runtime": "local",
    "compute.plan": "vmap",
}
ENDLESS = {**SETTINGS, "steps": 10**6, "checkpoint.every": 10**6}
DEADLINE_S = 300.0
HEAD_STARTS = 3

Environment = dict[str, str]


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    """Of a user of a cluster that asks for a token, with a dashboard on loopback."""
    folder = Path(tempfile.mkdtemp(prefix="job", dir="/tmp"))  # short, as sockets are in it
    cleared = ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")
    made = {key: value for key, value in os.environ.items() if key not in cleared}
    made |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")])),
        # The job's `dmeta` is beside this Python.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    try:
        # On a machine that is busy enough Ray gives its own start up after 30 s.
        for _ in range(HEAD_STARTS):
            said = start_head(made, folder)
            if said is None:
                break
            end(folder)
        else:
            pytest.fail(said)
        yield made
    finally:
        end(folder)
        shutil.rmtree(folder, ignore_errors=True)


def start_head(environment: Environment, folder: Path) -> str | None:
    """Start a head, and say in the environment where its dashboard is; what went wrong, if so."""
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{ports['dashboard-port']}"
    words = [*(f"--{name}={port}" for name, port in ports.items()), f"--temp-dir={folder}"]
    words += ["--dashboard-host=127.0.0.1", "--num-cpus=2", "--object-store-memory=100000000"]
    words += ["--disable-usage-stats"]
    said = folder / "head.txt"
    with said.open("w") as file:  # not a pipe, which the daemons would hold open
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *words],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE_S,
            check=False,
        )
    return said.read_text() if done.returncode else None


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]


def end(folder: Path) -> None:
    """Stop a head and all that it started, which names its folder."""
    left = [process for process in psutil.process_iter() if str(folder) in line_of(process)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def line_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return "\0".join(process.cmdline())
    return ""


def wait_until(is_so: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    """Wait for something that a process is to bring about."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


def words_of(settings: dict[str, object], run_dir: Path) -> list[str]:
    return [*(f"{key}={value}" for key, value in settings.items()), f"run_dir={run_dir}"]


def start(environment: Environment, *words: str) -> subprocess.Popen[str]:
    """`dmeta submit WORDS`, running; it can be interrupted even where this program can not."""
    return subprocess.Popen(
        [sys.executable, "-m", "dmeta", "submit", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output."""
    try:
        out, _ = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out


def drivers(run_dir: Path) -> list[psutil.Process]:
    """The jobs' programs that train in a folder: children of the cluster, not of ours."""
    lines = {process: line_of(process).split("\0") for process in psutil.process_iter()}
    return [
        process
        for process, words in lines.items()
        if "python" in words[0] and f"run_dir={run_dir}" in words and "submit" not in words
    ]


def test_a_job_that_is_killed_goes_on_to_the_same_bits(
    environment: Environment, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = start(environment, "train", *words_of(SETTINGS, run_dir), "submit.retries=1")
    alone = dmeta.train({**SETTINGS, "run_dir": str(tmp_path / "alone")})
    wait_until(lambda: list(run_dir.glob("checkpoints/step-*")), process)
    for driver in drivers(run_dir):
        driver.kill()
    code, out = finish(process)
    assert code == 0, out
    assert "failed, exit code 137\ngoing on from the last checkpoint, attempt 2 of 2" in out
    assert re.search(r"going on after step \d+/300", out)
    results = json.loads((run_dir / "results.json").read_text())
    assert results["meta_params_sha256"] == alone.meta_params_sha256
    # What is there is not overwritten, which only the job sees; and the program can be shipped.
    words = ["train", *words_of(SETTINGS, run_dir), "submit.code=true", "submit.retries=1"]
    code, out = finish(start(environment, *words))
    assert code == 2, out
    assert "python -m dmeta train" in out
    assert "run_dir must be new" in out
    assert out.count("Running entrypoint") == 1


def test_a_job_is_left_followed_again_and_stopped_with_its_last_step_kept(
    environment: Environment, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = start(environment, "train", *words_of(ENDLESS, run_dir))
    wait_until(lambda: (run_dir / "metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGINT)
    code, out = finish(process)
    assert code == 130, out
    found = re.search(r"the job goes on; follow it with: dmeta submit attach (\w+); stop it", out)
    assert found, out
    assert drivers(run_dir)
    following = start(environment, "attach", found[1])
    code, out = finish(start(environment, "stop", found[1]))
    assert code == 143, out
    assert re.search(r"stopped after step \d+, which is kept", out)
    assert list(run_dir.glob("checkpoints/step-*"))
    code, out = finish(following)
    assert code == 143, out
    assert "maml on sinusoid" in out
    assert f"job {found[1]} was stopped, exit code 143" in out
