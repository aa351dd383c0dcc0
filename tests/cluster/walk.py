"""A run on a cluster that loses a node and gets another: ``python -m tests.cluster.walk``.

Three nodes, each a raylet in a network namespace of its own (root needed). The run is submitted as
a job; a node is killed, another one joins, and the hash is that of a run in one process. Prints a
table for docs/scale.md. Not part of the tests: it takes minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.cluster import ClusterOptions, Kind, cluster
from tests.chaos.processes import MARK, find, none_left

STEPS, KILLED_AT, JOINED_AT = 1500, 300, 700
SETTINGS = (
    *("task=sinusoid", f"steps={STEPS}", "joint_baseline=false", "eval.every=0", "log_every=10"),
    *("eval.num_tasks=100", "compute.plan=vmap", "compute.block_size=4", "checkpoint.every=100"),
)
DMETA = (sys.executable, "-m", "dmeta")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, none_left():
        alone, run_dir = Path(folder) / "alone", Path(folder) / "cluster"
        train_here(SETTINGS, alone)
        options = ClusterOptions(Kind.NAMESPACES, num_nodes=3, dashboard=True)
        began = time.perf_counter()
        with cluster(options) as three:
            print(f"three nodes after {time.perf_counter() - began:.0f} s")
            words = [*DMETA, "submit", "train", *SETTINGS, "runtime=ray", f"run_dir={run_dir}"]
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            environment = {**three.environment, **MARK, "PATH": path}
            with Path(folder, "said").open("w") as said:
                job = subprocess.Popen(
                    [*three.driver_prefix, *words], env=environment, stdout=said, stderr=said
                )
                wait_for(run_dir, KILLED_AT, job, "with three nodes", began)
                node = three.other_node()
                assert node.raylet is not None
                node.raylet.kill()
                wait_for(run_dir, JOINED_AT, job, "a node was killed before", began)
                three.mend()
                code = job.wait()
                tell(run_dir, "a node joined before", began)
            print(f"exit {code}")
            print(Path(folder, "said").read_text()[-3000:])
        hashes = {digest(alone), digest(run_dir)}
        print("the same hash" if len(hashes) == 1 else f"NOT the same: {hashes}", *hashes)


def train_here(settings: Sequence[str], run_dir: Path) -> None:
    """The run to compare with: in one process, without Ray."""
    words = [*DMETA, "train", *settings, "runtime=local", f"run_dir={run_dir}"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def wait_for(
    run_dir: Path, step: int, job: subprocess.Popen[bytes], what: str, began: float
) -> None:
    """Until the run is so far; says how many workers there are then."""
    while last_row(run_dir).get("step", 0) < step:
        assert job.poll() is None, "the job has ended"
        time.sleep(0.2)
    tell(run_dir, what, began)


def tell(run_dir: Path, what: str, began: float) -> None:
    row = last_row(run_dir)
    print(
        f"step {row['step']} after {time.perf_counter() - began:.0f} s ({what}): "
        f"{len(find('worker'))} workers, {row['retried_blocks']} blocks retried, "
        f"{row['tasks_per_second']:.0f} tasks/s",
        flush=True,
    )


def last_row(run_dir: Path) -> dict[str, float]:
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    training = [row for row in rows if row["event"] == "train"]
    return dict(training[-1]) if training else {}


def digest(run_dir: Path) -> str:
    return str(json.loads((run_dir / "results.json").read_text())["meta_params_sha256"])


if __name__ == "__main__":
    main()
