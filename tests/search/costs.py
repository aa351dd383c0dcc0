"""What a search costs and survives: ``python -m tests.search.costs`` and one of the names below.

Each prints a table for docs/searches.md. Not part of the tests: minutes each, and it reads
the clock.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from dmeta.cli.settings.sweeps import Composer, split_overrides
from dmeta.launch import open_runtime, workplace_of
from dmeta.runs.folder import run_place
from dmeta.runs.lock import only_one_in
from dmeta.search.space import Space, grid
from dmeta.search.trial import ready
from dmeta.training.loop import train_steps
from dmeta.training.resume import starting_point
from dmeta.training.run import open_run
from dmeta.training.session import Session
from tests.chaos.cluster import ClusterOptions, Kind, cluster
from tests.chaos.processes import MARK, end, find, none_left, started

DMETA = (sys.executable, "-m", "dmeta")
RATES = ("outer.lr=0.001,0.003,0.01", "algorithm.inner_lr=0.005,0.02")
SINUSOID = ("task=sinusoid", "eval.val_tasks=100", "search.evaluate_best=false")

RANDOM = (
    *SINUSOID,
    *("steps=600", "eval.every=100", "search=random", "search.num_trials=6"),
    "outer.lr=tag(log,interval(0.0001,0.03))",
    "algorithm.inner_lr=tag(log,interval(0.001,0.3))",
)


def main() -> None:
    what = sys.argv[1]
    if what == "_one_after_the_other":
        one_after_the_other(sys.argv[2:])
        return
    with none_left():
        {
            "overhead": overhead,
            "memory": memory,
            "kills": kills,
            "nodes": nodes,
            "cluster": clusters,
        }[what]()


def overhead() -> None:
    """Tune against the same runs one after the other in one process, in turn."""
    settings = ("task=sinusoid", "eval.val_tasks=100", "steps=600", "eval.every=200")
    print("| six trials of 600 steps | seconds |\n| --- | --- |")
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            words = [*settings, *RATES, "search=grid", "search.evaluate_best=false"]
            seconds = run([*words, "search.max_concurrent=1", f"run_dir={folder}/a"])
            own = [float(row["seconds"]) for row in table(Path(folder) / "a")]
            print(f"| Tune, one at a time | {seconds:.1f} (in the steps: {sum(own):.1f}) |")
            began = time.perf_counter()
            module = [sys.executable, "-m", "tests.search.costs", "_one_after_the_other"]
            subprocess.run([*module, folder, *settings, *RATES], check=True)
            print(f"| one process, one after the other | {time.perf_counter() - began:.1f} |")
            seconds = run([*words, f"run_dir={folder}/b"])
            print(f"| Tune, two at a time | {seconds:.1f} |")
    print("\n| trials of one step | seconds a trial, after the first |\n| --- | --- |")
    for runtime in (["runtime=local"], ["runtime=ray", "runtime.num_workers=1"]):
        times = {}
        for count in (1, 6):
            with tempfile.TemporaryDirectory() as folder:
                words = [*SINUSOID, *RATES, "steps=1", "eval.every=1", "search=grid", *runtime]
                words += ["search.max_concurrent=1", f"search.num_trials={count}"]
                times[count] = run([*words, f"run_dir={folder}/a"])
        print(f"| {' '.join(runtime)} | {(times[6] - times[1]) / 5:.1f} (one: {times[1]:.1f}) |")


def one_after_the_other(words: Sequence[str]) -> None:
    """The runs of a grid, without Tune."""
    folder, *overrides = words
    fixed, dimensions = split_overrides(overrides)
    composer = Composer((*fixed, "runtime=local"))
    for at, point in enumerate(grid(Space(dimensions))):
        run_dir = Path(folder) / f"run{at}"
        settings = composer({**point, "run_dir": str(run_dir)})
        with run_place(run_dir) as place, only_one_in(run_dir), workplace_of(settings) as workplace:
            made = ready(settings, place, workplace)
            start = starting_point(made.config, run_dir)
            session = Session(made, run_dir, open_runtime)
            with open_run(session, start) as runtime:
                train_steps(session, start, runtime, on_validated=lambda _: None)


def memory() -> None:
    """Most memory of all processes of a search, with 1 and with 4 trials at the same time."""
    print("| trials at once | trial processes, PSS MiB each | everything, PSS MiB | shared MiB |")
    print("| --- | --- | --- | --- |")
    for count in (1, 4):
        with tempfile.TemporaryDirectory() as folder:
            words = ["task=omniglot", "task.split=finn", "steps=20", "eval.every=20"]
            words += ["eval.val_tasks=20", "meta_batch_size=8", "runtime.cpus_per_worker=0.5"]
            words += [
                "outer.lr=0.001,0.002,0.003,0.004",
                "search=grid",
                f"search.num_trials={count}",
            ]
            words += ["search.evaluate_best=false", f"run_dir={folder}/a"]
            process = begun(words)
            trials: list[float] = []
            total = shared = 0.0
            while process.poll() is None:
                sizes = {p: pss(p) for p in started()}
                own = [s for p, s in sizes.items() if "ray::ImplicitFunc" in " ".join(cmdline(p))]
                if len(own) == count and sum(own) > sum(trials):
                    trials = own
                total = max(total, sum(sizes.values()))
                shared = max(shared, shared_mebibytes())
                time.sleep(0.3)
            each = ", ".join(f"{size:.0f}" for size in trials)
            print(f"| {count} | {each} | {total:.0f} | {shared:.0f} |")


def kills() -> None:
    """A search killed at three moments, by its driver and by its raylet, and continued."""
    words = RANDOM
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        run([*words, f"run_dir={whole}"])
        print(f"undisturbed: best {best(whole)}")
        print("| killed | when (trials ended) | lost | run twice | same table | same best |")
        print("| --- | --- | --- | --- | --- | --- |")
        for what in ("driver", "raylet"):
            for ended in (0, 2, 4):
                run_dir = Path(folder) / f"{what}{ended}"
                process = begun([*words, f"run_dir={run_dir}"])
                wait_for(run_dir, ended)
                if what == "driver":
                    process.kill()
                else:
                    for raylet in find("raylet"):
                        raylet.kill()
                process.wait(120)
                end(started())
                before = times_of(run_dir)
                run([f"run_dir={run_dir}", "resume=true"])
                rows = table(run_dir)
                lost = sum(row["status"] not in ("finished", "diverged") for row in rows)
                twice = sum(times_of(run_dir).get(path) != when for path, when in before.items())
                same = [row["score"] for row in rows] == [row["score"] for row in table(whole)]
                print(
                    f"| {what} | {ended} | {lost} | {twice} | {same} | "
                    f"{best(run_dir) == best(whole)} |"
                )


def nodes() -> None:
    """A node of three, not the driver's, killed at three moments; the search goes on by itself."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        run([*RANDOM, f"run_dir={whole}"])
        print(
            "| killed when so many had ended | trials on the node | tried again | failed | exit |"
        )
        print("same table | same best |")
        for ended in (0, 2, 4):
            run_dir = Path(folder) / f"nodes{ended}"
            with cluster(ClusterOptions(Kind.RAYLETS, num_nodes=3)) as three:
                address = f"runtime.address={three.address}"
                process = begun([*RANDOM, address, f"run_dir={run_dir}"], three.environment)
                wait_for(run_dir, ended)
                node = three.nodes[1]
                assert node.raylet is not None
                on_it = sum("ImplicitFunc" in " ".join(cmdline(p)) for p in node.raylet.children())
                node.raylet.kill()
                code = process.wait()
                rows = table(run_dir)
                again = sum(int(row["failures"]) > 0 for row in rows)
                failed = sum(row["status"] not in ("finished", "diverged") for row in rows)
                same = [row["score"] for row in rows] == [row["score"] for row in table(whole)]
                print(
                    f"| {ended} | {on_it} | {again} | {failed} | {code} | {same} | "
                    f"{best(run_dir) == best(whole)} |",
                    flush=True,
                )


def clusters() -> None:
    """32 trials of a server and two workers each, on four raylets."""
    options = ClusterOptions(Kind.RAYLETS, num_nodes=4)
    with tempfile.TemporaryDirectory() as folder, cluster(options) as four:
        run_dir = Path(folder) / "search"
        words = [*SINUSOID, "steps=90", "eval.every=10", "search=asha", "search.num_trials=32"]
        words += ["outer.lr=tag(log,interval(0.0001,0.03))", "runtime=ray"]
        words += ["algorithm.inner_lr=tag(log,interval(0.001,0.3))", "runtime.num_workers=2"]
        words += ["runtime.cpus_per_worker=0.5", f"runtime.address={four.address}"]
        process = begun([*words, f"run_dir={run_dir}"], four.environment)
        most: Counter[str] = Counter()
        while process.poll() is None:
            most["trials"] = max(most["trials"], len(find("server")))
            most["workers"] = max(most["workers"], len(find("worker")))
            most["nodes"] = max(most["nodes"], len({p.ppid() for p in find("worker")}))
            time.sleep(2)
        rows = table(run_dir)
        print(f"exit {process.returncode}; {Counter(row['status'] for row in rows)}")
        print(f"at the same time at most: {dict(most)}; best {best(run_dir)}")


def begun(
    words: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A search that runs."""
    environment = {**os.environ, **MARK, **(environment or {})}
    log = Path(tempfile.gettempdir()) / "search_costs.log"
    with log.open("wb") as file:
        return subprocess.Popen([*DMETA, "tune", *words], env=environment, stdout=file, stderr=file)


def run(words: Sequence[str]) -> float:
    """Seconds of a search."""
    began = time.perf_counter()
    process = begun(words)
    try:
        assert process.wait() == 0, Path(tempfile.gettempdir(), "search_costs.log").read_text()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
    return time.perf_counter() - began


def table(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def best(run_dir: Path) -> str:
    found = json.loads((run_dir / "results.json").read_text())["best"]
    return f"trial {found['number']}, {found['score']!r}"


def wait_for(run_dir: Path, ended: int) -> None:
    """Until so many trials have ended and the next is at work."""
    while True:
        time.sleep(0.2)
        reports = [path.read_text().count("\n") for path in run_dir.glob("trials/*/reports.jsonl")]
        if sum(count == 6 for count in reports) >= ended and any(0 < n < 6 for n in reports):
            return


def times_of(run_dir: Path) -> dict[Path, int]:
    """When the checkpoints were written: those of ended trials must not be again."""
    ended = [
        p.parent for p in run_dir.glob("trials/*/reports.jsonl") if p.read_text().count("\n") == 6
    ]
    return {
        file: file.stat().st_mtime_ns
        for folder in ended
        for file in folder.glob("checkpoints/*/state.safetensors")
    }


def pss(process: psutil.Process) -> float:
    """Its share of memory, MiB; 0 if it is gone."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def shared_mebibytes() -> float:
    """What lies in /dev/shm: Ray's object stores, so much of them as was ever written."""
    status = os.statvfs("/dev/shm")
    return (status.f_blocks - status.f_bfree) * status.f_frsize / 2**20


if __name__ == "__main__":
    main()
