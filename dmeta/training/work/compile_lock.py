"""Workers of one node compile a program once: the first does, the others load it from disk.

torch keeps compiled code in a folder of the node. Workers that begin at the same time would all
find it empty, and compile the same for up to minutes side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from dmeta.bilevel.compiled import BlockProgram
from dmeta.bilevel.plans import BlockGradient
from dmeta.bilevel.types import Params, Stage, Task


def compiled_in_turn(program: BlockProgram, what: str) -> BlockProgram:
    """The program, its first call after that of another process of this node has compiled it.

    Args:
        program: compiles itself when it is first called.
        what: equal for programs that are the same.
    """
    is_first = True

    def compute(
        meta_params: Params, tasks: Task, stage: Stage, task_seeds: Tensor | None
    ) -> BlockGradient:
        nonlocal is_first
        turn = first_of_node(what) if is_first else contextlib.nullcontext()
        with turn:
            result = program(meta_params, tasks, stage, task_seeds)
        is_first = False
        return result

    return compute


@contextlib.contextmanager
def first_of_node(what: str) -> Iterator[None]:
    """Within the context, alone on this node; or with all others, once the first one is through.

    A process that dies lets the others in. Where no lock can be had, nobody waits.

    Args:
        what: is done.
    """
    try:
        lock = os.open(_path(what), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a disk without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def _path(what: str) -> Path:
    """The lock, next to the folder in which torch keeps compiled code."""
    digest = hashlib.sha256(f"{getpass.getuser()} {what}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"dmeta-compile-{digest}.lock"
