"""A run or a search at a URL, as `dmeta status` sees it: its small files and its heartbeat.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dmeta.addresses import parent_of
from dmeta.runs.heartbeat import MARK, SILENCE_S, is_of_the_dead
from dmeta.runs.layout import CONFIG, JOINT, LOG, METRICS, RESULTS, SEARCH, TRIALS, TRIALS_TABLE
from dmeta.runs.remote_mirror import DistantFolder

_FILES = (
    CONFIG,
    METRICS,
    LOG,
    RESULTS,
    f"{JOINT}/{CONFIG}",
    f"{JOINT}/{METRICS}",
    f"{JOINT}/{LOG}",
    SEARCH,
    TRIALS_TABLE,
)


@dataclass(frozen=True)
class Afar:
    """What is known of a run or a search at an address besides its files.

    Attributes:
        address: of it.
        lives: whether somebody is at work there, who renews the mark.
        is_trial: whether it is a run of a search.
    """

    address: str
    lives: bool
    is_trial: bool


@contextlib.contextmanager
def copied(address: str) -> Iterator[tuple[Path, Afar]]:
    """A folder with copies of the small files, each as old as what it is of.

    Raises:
        ValueError: the address cannot be read, or not be opened.
    """
    there = DistantFolder(address)
    with tempfile.TemporaryDirectory(prefix="dmeta-status-") as name:
        folder = Path(name)
        for file in _FILES:
            content, path = there.read(file), folder / file
            if content is not None:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
                written = there.written_at(file)
                if written is not None:
                    os.utime(path, (written, written))
        yield folder, Afar(address, _lives(there), _is_trial(address))


def _is_trial(address: str) -> bool:
    search, name = parent_of(parent_of(address.rstrip("/"))[0])
    return name == TRIALS and DistantFolder(search).has(SEARCH)


def _lives(there: DistantFolder) -> bool:
    mark = there.read(MARK)
    if mark is None or is_of_the_dead(mark):
        return False
    written = there.written_at(MARK)
    return written is None or time.time() - written < SILENCE_S
