"""Quick, Draw!: 345 kinds of drawings, 28x28 grey (Jongejan et al. 2016).

As distributed: ``quickdraw/<class>.npy``, [n, 784] uint8, white on black, 113,613 drawings or more
of each. As in Meta-Dataset (arXiv:1903.03096): 241/52/52 classes.

Differs from the paper: of each class the first `per_class` drawings are used, for all 50 million
take 40 GB of memory; and they are neither coloured nor enlarged (`task=mixture` does that).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import PositiveInt

from dmeta.addresses import is_address, local_path
from dmeta.tasks.archives import ByteArray
from dmeta.tasks.classes import make_starts
from dmeta.tasks.data_root import DistantFile, default_root
from dmeta.tasks.image_set import split_list
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.rotations import with_rotations
from dmeta.tasks.source import SPLITS
from dmeta.tasks.status import DataSetStatus, MissingDataError

_SIDE = 28

_HOW_TO_GET = (
    "copy gs://quickdraw_dataset/full/numpy_bitmap/*.npy (39 GB) into quickdraw/ under the data "
    "root (DMETA_DATA or task.root), a folder of this machine (licence: CC BY 4.0)"
)

_READ_ERRORS = (OSError, ValueError, EOFError, TypeError, MemoryError)


def load_quickdraw(*, root: str | None = None, per_class: PositiveInt = 1000) -> ImageClasses:
    """Tasks of Quick, Draw!; 0.3 GB of memory for 1,000 drawings of each class.

    Args:
        root: the data root, a folder; None means DMETA_DATA, else ./data.
        per_class: drawings of each class, the first ones of its file.

    Raises:
        MissingDataError: a class is not there.
        ValueError: a file is damaged or has too few drawings, or the data root is an address.
    """
    where = default_root() if root is None else root
    if is_address(where):
        raise ValueError(
            f"the data root must be on this machine for task=quickdraw, got {where}; set task.root "
            "to a folder"
        )
    found = status(local_path(where))
    if not found.complete:
        raise MissingDataError("Quick, Draw!", found.missing[0], list(found.where), _HOW_TO_GET)
    lists = split_list("quickdraw")
    names = sorted(name for own in lists.values() for name in own)
    images = np.empty((len(names), per_class, _SIDE, _SIDE), np.uint8)
    for name, own in zip(names, images, strict=True):
        own[...] = _first(local_path(where) / "quickdraw" / f"{name}.npy", per_class)
    members = {split: [names.index(name) for name in lists[split]] for split in SPLITS}
    splits = with_rotations(members, dict.fromkeys(SPLITS, "none"))
    starts = make_starts([per_class] * len(names))
    return ImageClasses(images.reshape(-1, _SIDE, _SIDE), tuple(names), starts, *splits)


def _first(path: Path, count: int) -> ByteArray:
    """The first drawings of a file: [count, 28, 28]."""
    try:
        drawings = np.load(path, mmap_mode="r", allow_pickle=False)
        if drawings.dtype != np.uint8 or drawings.shape[1:] != (_SIDE * _SIDE,):
            raise ValueError(f"{drawings.dtype} {drawings.shape}")
        rows: ByteArray = np.asarray(drawings[:count])
    except _READ_ERRORS as error:
        raise ValueError(
            f"a file of Quick, Draw! must be uint8 [n, {_SIDE * _SIDE}], got {path} ({error}); "
            "copy it again"
        ) from error
    if len(rows) < count:
        raise ValueError(
            f"task.per_class must be <= {len(rows)} (drawings in {path}), got {count}; lower it"
        )
    return rows.reshape(count, _SIDE, _SIDE)


def status(root: Path) -> DataSetStatus:
    """What of it lies in a folder: see `dmeta.tasks.inventory.ReadsFiles`."""
    folder = root / "quickdraw"
    names = sorted(name for own in split_list("quickdraw").values() for name in own)
    missing = [name for name in names if not (folder / f"{name}.npy").is_file()]
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    lacking = (f"{len(missing)} of {len(names)} classes missing ({shown})",) if missing else ()
    return DataSetStatus(
        name="quickdraw",
        needs_data=True,
        complete=not missing,
        where=(str(folder),),
        found=f"{len(names) - len(missing)} classes" if len(missing) < len(names) else "nothing",
        missing=lacking,
        how_to_get=_HOW_TO_GET if missing else "",
    )


def distant_files(root: str) -> list[tuple[str, DistantFile | None]]:
    """None: it is read from a folder alone."""
    del root
    return [("quickdraw/*.npy (only read from a folder)", None)]
