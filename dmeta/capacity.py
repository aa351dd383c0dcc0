"""CPUs and memory that this process may use, of its machine or its container.

The least of what the machine has, what the CPU affinity allows, and what every control group that
the process is in allows (cgroup v1 and v2; a container is one). Everything that plans for the
machine, sizes a chunk or starts threads and workers asks here.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

_PROC = Path("/proc/self")


def usable_cpus(proc: Path = _PROC) -> int:
    """CPUs (at least 1) that this process may use at a time.

    Args:
        proc: folder of the process under ``/proc``.
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    quotas = [_cpu_quota(group) for group in _groups("cpu", proc)]
    return max(1, math.floor(min([count, *quotas])))


def memory_bytes(proc: Path = _PROC) -> int:
    """Bytes of memory that this process and what shares its container may use together."""
    limits = [_memory_limit(group) for group in _groups("memory", proc)]
    return int(min([psutil.virtual_memory().total, *limits]))


def available_memory_bytes(proc: Path = _PROC) -> int:
    """Bytes of memory that can still be taken before the system swaps or ends a process."""
    free = [_memory_limit(group) - _memory_used(group) for group in _groups("memory", proc)]
    return max(0, int(min([psutil.virtual_memory().available, *free])))


def cpu_model(info: Path = Path("/proc/cpuinfo")) -> str:
    """What the machine's CPU calls itself.

    Args:
        info: where Linux tells it.
    """
    try:
        lines = info.read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    return next(names, platform.processor())


@dataclass(frozen=True)
class _Group:
    """A control group: its folder, and whether it is of cgroup v2."""

    folder: Path
    is_v2: bool

    def number(self, name: str) -> float:
        """The number in a file; infinity where there is none, or ``max``."""
        try:
            return float((self.folder / name).read_text())
        except (OSError, ValueError):
            return math.inf


def _cpu_quota(group: _Group) -> float:
    if not group.is_v2:
        quota, period = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
        return quota / period if quota > 0 and 0 < period < math.inf else math.inf
    try:
        quota_us, period_us = (group.folder / "cpu.max").read_text().split()
        return float(quota_us) / float(period_us)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return math.inf


def _memory_limit(group: _Group) -> float:
    if group.is_v2:  # above memory.high its processes are slowed down to a crawl
        return min(group.number("memory.max"), group.number("memory.high"))
    return group.number("memory.limit_in_bytes")


def _memory_used(group: _Group) -> float:
    """What is used, without the pages of files that the system drops when memory is needed."""
    used = group.number("memory.current" if group.is_v2 else "memory.usage_in_bytes")
    if math.isinf(used):
        return 0.0
    return max(0.0, used - _statistics(group).get(_DROPPED[group.is_v2], 0))


_DROPPED = {True: "inactive_file", False: "total_inactive_file"}


def _statistics(group: _Group) -> dict[str, int]:
    try:
        lines = (group.folder / "memory.stat").read_text().splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return {}


def _groups(controller: str, proc: Path) -> Iterator[_Group]:
    """The control groups of the process that may limit it, from its own up to the outermost."""
    try:
        memberships = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return
    paths: dict[str, str] = {}  # controller -> path; that of v2 has no name
    for line in memberships:
        _, names, path = line.split(":", 2)
        paths |= dict.fromkeys(names.split(","), path)
    for line in mounts:
        fields, _, kind = line.partition(" - ")
        is_v2 = kind.startswith("cgroup2 ")
        if not is_v2 and not (
            kind.startswith("cgroup ") and controller in kind.split()[-1].split(",")
        ):
            continue
        group = paths.get("" if is_v2 else controller)
        root, mounted = fields.split()[3:5]
        if group is not None:
            yield from (_Group(f, is_v2) for f in _folders(Path(_unescaped(mounted)), root, group))


def _folders(mounted: Path, root: str, path: str) -> list[Path]:
    """Folders of the group at `path` and of those around it, as far as they are mounted.

    Args:
        mounted: where the groups are mounted.
        root: path of the group that is mounted there: a container may see nothing above its own.
        path: of the process's group; with a namespace of its own, it may be outside of `root`.
    """
    inner = PurePosixPath(path)
    inside = inner.relative_to(root).parts if inner.is_relative_to(root) else ()
    if ".." in inside:
        inside = ()
    return [mounted.joinpath(*inside[:depth]) for depth in range(len(inside), -1, -1)]


def _unescaped(path: str) -> str:
    """A path of mountinfo, where spaces and the like are octal numbers."""
    return path.encode().decode("unicode_escape") if "\\" in path else path
