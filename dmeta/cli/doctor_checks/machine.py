"""Checks of the machine: CPUs, memory, files, disk, the token of Ray, and the data."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import tempfile
from pathlib import Path

from dmeta.addresses import cache_folder
from dmeta.capacity import available_memory_bytes, cpu_model, memory_bytes, usable_cpus
from dmeta.cli.doctor_checks.finding import Finding
from dmeta.training.byte_size import shown_bytes

SHARED_MEMORY = Path("/dev/shm")

_GIB = 1 << 30
_LITTLE_MEMORY = 2 * _GIB
_LITTLE_DISK, _NO_DISK = 5 * _GIB, _GIB // 4

# Ray's own rules for its object store: this part of the memory, at most so much; and on a disk that
# is fuller than that, it writes nothing.
_STORE_SHARE, _STORE_MOST = 0.3, 200 * 10**9
_FULL_SHARE = 0.95


def check_cpus() -> Finding:
    """CPUs that may be used: workers of a run are as many, unless runtime.num_workers says less."""
    return Finding("ok", f"{usable_cpus()} usable of {os.cpu_count()} ({cpu_model()})")


def check_memory() -> Finding:
    """Whether there is memory for a driver, a server and workers: about 0.4 GiB each."""
    free, size = available_memory_bytes(), memory_bytes()
    found = f"{shown_bytes(free)} free of {shown_bytes(size)}"
    if free < _LITTLE_MEMORY:
        return Finding(
            "warning",
            f"{found}: Ray stops workers when it runs out",
            "end other programs, or use runtime=local or a small runtime.num_workers",
        )
    return Finding("ok", found)


def check_shared_memory() -> Finding:
    """Whether Ray's object store fits into /dev/shm; else Ray puts it on the disk."""
    if not SHARED_MEMORY.is_dir():
        return Finding("ok", f"no {SHARED_MEMORY} on this system; Ray uses the disk")
    free = shutil.disk_usage(SHARED_MEMORY).free
    wanted = min(_STORE_SHARE * available_memory_bytes(), _STORE_MOST)
    found = f"{shown_bytes(free)} free in {SHARED_MEMORY}; Ray takes up to {shown_bytes(wanted)}"
    if free < wanted:
        size = f"{max(1, round(wanted / _GIB + 0.5))}g"
        return Finding(
            "warning",
            f"{found}, and will use the slower disk instead",
            f"start the container with --shm-size={size}, or enlarge it: mount -o "
            f"remount,size={size} {SHARED_MEMORY}",
        )
    return Finding("ok", found)


def check_open_files() -> Finding:
    """Whether Ray can open the files it needs; it raises the soft limit to the hard one."""
    from dmeta.runtime.cluster.connect import open_files_needed

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = open_files_needed()
    if hard == resource.RLIM_INFINITY:
        return Finding("ok", f"no limit; a run with Ray needs {needed}")
    found = f"limit {hard} (now {soft}); a run with Ray needs {needed}"
    if hard < needed:
        return Finding(
            "problem",
            found,
            f"raise it (`ulimit -Hn {max(needed, 8192)}`, as root or in /etc/security/limits.conf)"
            ", or use runtime=local",
        )
    return Finding("ok", found)


def check_disk(run_dir: Path) -> Finding:
    """Whether runs can be written, and have room.

    Args:
        run_dir: where they go; it need not exist yet.
    """
    return _folder(run_dir, "choose another folder with run_dir=FOLDER")


def check_temporary() -> Finding:
    """Whether Ray can write its logs and sessions; it stops writing where 95% are used."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    found = _folder(folder, "name another one with RAY_TMPDIR=FOLDER")
    usage = shutil.disk_usage(folder)
    if found.level != "problem" and usage.free < (1 - _FULL_SHARE) * usage.total:
        return Finding(
            "warning",
            f"{found.found}: more than {_FULL_SHARE:.0%} used, Ray writes no more objects there",
            "delete files, or name another folder with RAY_TMPDIR=FOLDER",
        )
    return found


def check_cache() -> Finding:
    """Whether copies of remote data and decoded images can be kept."""
    return _folder(cache_folder(), "name another one with DMETA_CACHE=FOLDER")


def _folder(folder: Path, remedy: str) -> Finding:
    """Whether a folder, or the nearest one above that exists, can be written to and has room."""
    absolute = folder.expanduser().absolute()
    there = next(each for each in (absolute, *absolute.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "is not writable" if there.is_dir() else "is a file"
        return Finding("problem", f"{folder}: {there} {why}", remedy)
    free = shutil.disk_usage(there).free
    found = f"{shown_bytes(free)} free for {folder}"
    if free < _NO_DISK:
        return Finding("problem", found, f"delete files, or {remedy}")
    if free < _LITTLE_DISK:
        return Finding("warning", found, f"delete files, or {remedy}")
    return Finding("ok", found)


def check_token() -> Finding:
    """Whether Ray's token, if there is one, can be read, and by this user alone."""
    from dmeta.runtime.cluster import tokens

    if tokens.mode() != "token":
        return Finding(
            "warning",
            f"RAY_AUTH_MODE={tokens.mode()}: a cluster does not ask its users for a token",
            "unset RAY_AUTH_MODE",
        )
    origin = tokens.origin()
    try:
        token = tokens.our_token()
    except ValueError as error:
        return Finding("problem", str(error), f"correct or unset {origin}")
    if token is None:
        return Finding("ok", "none yet; the first cluster that dmeta starts makes one")
    if origin == "RAY_AUTH_TOKEN":
        return Finding("ok", f"from {origin}")
    path = tokens.token_file()
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(
            "warning",
            f"{path} has mode {mode:o}: anyone who reads it can run programs on your clusters",
            f"chmod 600 {path}",
        )
    return Finding("ok", f"{path}, readable by you alone")


def check_data() -> Finding:
    """Which data sets are complete under the data root (``dmeta data`` says more)."""
    from dmeta.tasks.inventory import default_root, inventory

    root = default_root()
    # Features are made by `dmeta embed`: nobody lacks them.
    read = [s for s in inventory(root) if s.needs_data and s.name != "features"]
    complete = [status.name for status in read if status.complete]
    missing = ", ".join(status.name for status in read if not status.complete)
    if not complete:
        return Finding(
            "warning",
            f"root {root}: nothing complete, {missing} missing",
            "`dmeta data` says how to get them; task=sinusoid and task=glyphs need no data",
        )
    found = f"root {root}: {', '.join(complete)} complete"
    return Finding("ok", f"{found}, {missing} missing (dmeta data)" if missing else found)
