"""Which data sets are there, which are not, and how to get them (for ``dmeta data``).

Reads file lists only, decodes nothing; at an address it looks for the files and reads none. Sources
of other packages are not listed: only they know their files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dmeta.addresses import is_address, local_path, within
from dmeta.tasks import TASKS, features, miniimagenet, omniglot
from dmeta.tasks.data_root import DistantFile, default_root, find_distant, list_distant
from dmeta.tasks.status import DataSetStatus, MissingDataError

__all__ = ["DataSetStatus", "MissingDataError", "default_root", "inventory"]

_READ = ("features", "miniimagenet", "omniglot")
"""Sources that read files; all others make their tasks up."""


def inventory(root: str | Path) -> list[DataSetStatus]:
    """The state of every built-in task source's data under `root`, sorted by name.

    Raises:
        ValueError: `root` is an address that cannot be read, or not be opened.
    """
    generated = [
        DataSetStatus(
            name=name,
            needs_data=False,
            complete=True,
            where=(),
            found="made on the fly",
            missing=(),
            how_to_get="",
        )
        for name in TASKS.builtin
        if name not in _READ
    ]
    if is_address(root):
        read = _distant_inventory(str(root))
    else:
        folder = local_path(root)
        read = [module.status(folder) for module in (features, miniimagenet, omniglot)]
    return sorted([*generated, *read], key=lambda status: status.name)


def _distant_inventory(root: str) -> list[DataSetStatus]:
    vectors = list_distant(root, features.FOLDER, ".npz")
    return [
        _distant(root, "features", vectors or [None], [f"{features.FOLDER}/*.npz"]),
        *(
            _distant(root, name, find_distant(root, wanted), [places[0] for places in wanted])
            for name, wanted in (
                ("miniimagenet", miniimagenet.MINIIMAGENET_ARCHIVES),
                ("omniglot", omniglot.OMNIGLOT_ARCHIVES),
            )
        ),
    ]


def _distant(
    root: str, name: str, found: Sequence[DistantFile | None], wanted: Sequence[str]
) -> DataSetStatus:
    """The state of a data set at an address: its files, or None for one that is not there."""
    there = [str(file) for file in found if file is not None]
    lacking = (
        ()
        if None not in found
        else tuple(place for place, file in zip(wanted, found, strict=True) if file is None)
    )
    return DataSetStatus(
        name=name,
        needs_data=True,
        complete=not lacking,
        where=tuple(there) or tuple(within(root, place) for place in wanted),
        found=f"{', '.join(there)}; looked into when fetched" if there else "nothing",
        missing=lacking,
        how_to_get="" if not lacking else f"copy it there: {root}",
    )
