"""What a process may use of its machine, from made-up trees of control groups and a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from dmeta import capacity
from dmeta.capacity import available_memory_bytes, memory_bytes, usable_cpus

GIB = 2**30
CPU_V1 = "31 20 0:28 / {}/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
MEMORY_V1 = "32 20 0:29 / {}/memory rw - cgroup cgroup rw,memory"
V2 = "30 23 0:26 / {} rw,nosuid - cgroup2 cgroup2 rw"


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 CPUs, 64 GiB of memory of which 48 are free."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    memory = SimpleNamespace(total=64 * GIB, available=48 * GIB)
    monkeypatch.setattr(capacity.psutil, "virtual_memory", lambda: memory)


def process(tmp_path: Path, groups: str, mounts: str, files: Mapping[str, str]) -> Path:
    """A folder of a process under /proc; `{}` in `mounts` is where the groups are."""
    proc, tree = tmp_path / "proc", tmp_path / "groups"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    mounts = "22 1 8:1 / / rw - ext4 /dev/sda rw\n" + mounts.replace("{}", str(tree))
    (proc / "mountinfo").write_text(mounts)
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return proc


def test_without_a_limit_it_is_the_machine(tmp_path: Path) -> None:
    for proc in (tmp_path / "none", process(tmp_path, "0::/\n", V2, {})):
        assert usable_cpus(proc) == 16
        assert memory_bytes(proc) == 64 * GIB
        assert available_memory_bytes(proc) == 48 * GIB


def test_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert usable_cpus(tmp_path) == 3


V1_UNLIMITED = {
    "cpu/cpu.cfs_quota_us": "-1",
    "cpu/cpu.cfs_period_us": "100000",
    "memory/memory.limit_in_bytes": "9223372036854771712",
    "memory/memory.usage_in_bytes": str(10 * GIB),
}


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "cpus", "memory", "available"),
    [
        pytest.param("0::/", V2, {"cpu.max": "max 100000", "memory.max": "max"}, 16, 64, 48),
        pytest.param(
            "0::/",
            V2,
            {
                "cpu.max": "250000 100000",
                "memory.max": str(8 * GIB),
                "memory.current": str(5 * GIB),
                "memory.stat": f"anon {2 * GIB}\nfile {3 * GIB}\ninactive_file {3 * GIB}",
            },
            2,
            8,
            6,
            id="v2, container with a namespace",
        ),
        pytest.param("0::/", V2, {"cpu.max": "50000 100000"}, 1, 64, 48, id="half a CPU"),
        pytest.param(
            "0::/a.slice/job/step",
            V2,
            {
                "a.slice/cpu.max": "400000 100000",
                "a.slice/memory.max": str(6 * GIB),
                "a.slice/memory.current": str(5 * GIB),
                "a.slice/job/cpu.max": "max 100000",
                "a.slice/job/memory.max": str(4 * GIB),
                "a.slice/job/memory.current": str(1 * GIB),
                "a.slice/job/step/cpu.max": "800000 100000",
                "a.slice/job/step/memory.max": "max",
                "a.slice/job/step/memory.current": str(1 * GIB),
            },
            4,
            4,
            1,
            id="v2, nested: the least of each",
        ),
        pytest.param(
            "0::/", V2, {"memory.max": "max", "memory.high": str(3 * GIB)}, 16, 3, 3, id="high"
        ),
        pytest.param(
            "4:memory:/\n1:cpu,cpuacct:/",
            f"{CPU_V1}\n{MEMORY_V1}",
            V1_UNLIMITED,
            16,
            64,
            48,
            id="v1, no limit",
        ),
        pytest.param(
            "4:memory:/docker/7\n1:cpu,cpuacct:/docker/7\n0::/",
            f"{CPU_V1}\n{MEMORY_V1}",
            V1_UNLIMITED
            | {
                "cpu/docker/7/cpu.cfs_quota_us": "150000",
                "cpu/docker/7/cpu.cfs_period_us": "50000",
                "memory/docker/7/memory.limit_in_bytes": str(2 * GIB),
                "memory/docker/7/memory.usage_in_bytes": str(1 * GIB),
                "memory/docker/7/memory.stat": f"cache 5\ntotal_inactive_file {GIB // 2}",
            },
            3,
            2,
            1.5,
            id="v1, seen from the outside",
        ),
        pytest.param(
            "1:cpu,cpuacct:/docker/7/job",
            CPU_V1.replace("0:28 /", "0:28 /docker/7"),
            {
                "cpu/cpu.cfs_quota_us": "500000",
                "cpu/cpu.cfs_period_us": "100000",
                "cpu/job/cpu.cfs_quota_us": "-1",
                "cpu/job/cpu.cfs_period_us": "100000",
            },
            5,
            64,
            48,
            id="v1, only the container's own is mounted",
        ),
        pytest.param(
            "0::/../../elsewhere", V2, {"cpu.max": "200000 100000"}, 2, 64, 48, id="moved out"
        ),
    ],
)
def test_a_containers_limits_count(
    tmp_path: Path,
    groups: str,
    mounts: str,
    files: Mapping[str, str],
    cpus: int,
    memory: float,
    available: float,
) -> None:
    proc = process(tmp_path, groups, mounts, files)
    assert usable_cpus(proc) == cpus
    assert memory_bytes(proc) == memory * GIB
    assert available_memory_bytes(proc) == available * GIB


def test_a_full_container_has_nothing_left(tmp_path: Path) -> None:
    files = {"memory.max": "1000", "memory.current": "1001"}
    assert available_memory_bytes(process(tmp_path, "0::/", V2, files)) == 0


_REAL = """
import os, sys
from dmeta import capacity
for folder in sys.argv[1:]:
    open(folder + "/cgroup.procs", "w").write(str(os.getpid()))
print(capacity.usable_cpus(), capacity.memory_bytes(), capacity.available_memory_bytes())
"""


def test_a_real_control_group_counts() -> None:
    """Where the tests may make one: as root, with cgroup v1."""
    made = []
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    mine = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    limits = {"cpu": {"cpu.cfs_quota_us": "100000"}, "memory": {}}
    limits["memory"]["memory.limit_in_bytes"] = str(GIB)
    try:
        for controller, values in limits.items():
            folder = Path(f"/sys/fs/cgroup/{controller}{mine.get(controller, '/none')}")
            folder = folder / f"dmeta-test-{os.getpid()}"
            folder.mkdir()
            made.append(folder)
            for name, value in values.items():
                (folder / name).write_text(value)
    except OSError as error:
        for folder in made:
            folder.rmdir()
        pytest.skip(f"no control groups can be made here ({error})")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _REAL, *map(str, made)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(capacity.__file__).parents[1])},
        )
    finally:
        for folder in made:
            folder.rmdir()
    cpus, memory, available = map(int, done.stdout.split())
    assert (cpus, memory) == (1, GIB)
    assert 0 < available <= GIB
    assert psutil.virtual_memory().total > GIB
