"""Which data sets are there, which are not, and how to get them (for ``dmeta data``).

Reads file lists only, decodes nothing; at an address it looks for the files and reads none. Not
listed are sources of the user's own files or of other sources' tasks, and those of other packages:
only they know their files.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from dmeta.addresses import is_address, local_path, within
from dmeta.declared import declared_options
from dmeta.registry import Entry, LazyEntry
from dmeta.tasks import TASKS
from dmeta.tasks.data_root import DistantFile, default_root
from dmeta.tasks.status import DataSetStatus, MissingDataError

__all__ = ["DataSetStatus", "MissingDataError", "default_root", "inventory"]


class ReadsFiles(Protocol):
    """The module of a source that reads a data set from the data root."""

    def status(self, root: Path) -> DataSetStatus:
        """What of it lies in a folder; lists files, decodes none."""
        ...

    def distant_files(self, root: str) -> list[tuple[str, DistantFile | None]]:
        """Where each of its files would be below a URL, and what is there."""
        ...


def inventory(root: str | Path) -> list[DataSetStatus]:
    """The state of every built-in task source's data under `root`, sorted by name.

    Raises:
        ValueError: `root` is an address that cannot be read, or not be opened.
    """
    found = []
    for name, entry in sorted(TASKS.builtin.items()):
        if not _reads_files(entry):
            found.append(_generated(name))
            continue
        module = _reading_module(entry)
        if module is None:
            continue
        if is_address(root):
            found.append(_distant(str(root), name, module.distant_files(str(root))))
        else:
            found.append(module.status(local_path(root)))
    return found


def _reads_files(entry: LazyEntry | Entry[Any]) -> bool:
    assert isinstance(entry, LazyEntry)  # of dmeta's own
    return any(option.name in ("root", "file") for option in declared_options(entry.target))


def _reading_module(entry: LazyEntry | Entry[Any]) -> ReadsFiles | None:
    """The module of a source; None: what it reads is not in the data root."""
    assert isinstance(entry, LazyEntry)
    module: Any = import_module(entry.target.partition(":")[0])
    return cast(ReadsFiles, module) if hasattr(module, "status") else None


def _generated(name: str) -> DataSetStatus:
    return DataSetStatus(
        name=name,
        needs_data=False,
        complete=True,
        where=(),
        found="made on the fly",
        missing=(),
        how_to_get="",
    )


def _distant(
    root: str, name: str, files: Sequence[tuple[str, DistantFile | None]]
) -> DataSetStatus:
    """The state of a data set at an address."""
    there = [str(file) for _, file in files if file is not None]
    lacking = tuple(place for place, file in files if file is None)
    return DataSetStatus(
        name=name,
        needs_data=True,
        complete=not lacking,
        where=tuple(there) or tuple(within(root, place) for place, _ in files),
        found=f"{', '.join(there)}; looked into when fetched" if there else "nothing",
        missing=lacking,
        how_to_get="" if not lacking else f"copy it there: {root}",
    )
