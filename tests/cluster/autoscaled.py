"""A run on a cluster that grows for it: ``python -m tests.cluster.autoscaled``.

Ray's own autoscaler, with its provider whose nodes are processes of this machine. The run begins
with one worker and wants three; a node is killed, as a spot instance is taken away, and the
autoscaler brings another; at the end the cluster shrinks. Prints a table for docs/scale.md. Not
part of the tests: it takes minutes.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.cluster import ClusterOptions, Kind, cluster
from tests.chaos.processes import find, none_left
from tests.cluster.walk import DMETA, digest, last_row, train_here

STEPS = 4000
SETTINGS = (
    *("task=sinusoid", f"steps={STEPS}", "joint_baseline=false", "eval.every=0", "log_every=10"),
    *("eval.num_tasks=100", "compute.plan=vmap", "compute.block_size=4", "checkpoint.every=500"),
)
GROWING = (
    *("runtime=ray", "runtime.num_workers=3", "runtime.min_workers=1", "runtime.autoscale=true"),
)
_PATIENCE_S = 180.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, none_left():
        alone, run_dir = Path(folder) / "alone", Path(folder) / "cluster"
        train_here(SETTINGS, alone)
        with cluster(ClusterOptions(Kind.RAYLETS, num_nodes=1, num_more=2)) as growing:
            began = time.perf_counter()
            words = [*DMETA, "train", *SETTINGS, *GROWING, f"run_dir={run_dir}"]
            words.append(f"runtime.address={growing.address}")
            with Path(folder, "said").open("w") as said:
                job = subprocess.Popen(words, env=growing.environment, stdout=said, stderr=said)

                def tell(what: str) -> None:
                    row, seconds = last_row(run_dir), time.perf_counter() - began
                    print(
                        f"| {what} | {seconds:.0f} s | {row.get('step', 0)} | "
                        f"{len(find('raylet'))} | {len(find('worker'))} |",
                        flush=True,
                    )

                print("| what | after | step | nodes | workers |")
                until(lambda: last_row(run_dir).get("step", 0) >= 10, job)
                tell("the first steps")
                until(lambda: len(find("worker")) == 3, job)
                tell("all workers")
                until(lambda: last_row(run_dir).get("step", 0) >= STEPS // 2, job)
                find("raylet")[-1].kill()
                until(lambda: len(find("worker")) < 3, job)
                tell("a node was killed")
                until(lambda: len(find("worker")) == 3, job)
                tell("another has come")
                code = job.wait()
                tell("the end")
                deadline = time.monotonic() + _PATIENCE_S
                while len(find("raylet")) > 1 and time.monotonic() < deadline:
                    time.sleep(0.5)
                tell("the cluster has shrunk")
            print(f"exit {code}")
            print(Path(folder, "said").read_text()[-3000:])
        hashes = {digest(alone), digest(run_dir)}
        print("the same hash" if len(hashes) == 1 else f"NOT the same: {hashes}", *hashes)
        print(json.dumps(last_row(run_dir)))


def until(is_so: Callable[[], bool], job: subprocess.Popen[bytes]) -> None:
    """Wait for it, as long as the run is at work."""
    deadline = time.monotonic() + _PATIENCE_S
    while not is_so():
        if job.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"not so: the run is {job.poll()} (None: at work)")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
