"""The page of image data sets: where each lies, how to get it, its licence."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from dmeta.tasks import TASKS
from dmeta.tasks.image_set import ImageSet
from dmeta.tasks.inventory import inventory
from reference_pages.text import cell, linked_papers, table

_NOT_IMAGES = {"features"}


def data_sets_page() -> str:
    """The page."""
    counts = {name: _counts(classes) for name, (_, classes) in declared_sets().items()}
    rows = [
        (
            f"`{status.name}`",
            f"{entry.summary} ({linked_papers(entry.source)})",
            counts.get(status.name, ""),
            cell(status.how_to_get),
        )
        for status in inventory(Path("no such folder"))
        if status.needs_data and status.name not in _NOT_IMAGES
        for entry in [TASKS.builtin[status.name]]
    ]
    return (
        "# Image data sets\n\n"
        "Read from the data root (`DMETA_DATA` or `task.root`), from a folder or a zip. "
        "`dmeta data` says which are there, `dmeta data check task=NAME` what is in one. This page "
        "is generated from the code.\n\n"
        + table(("`task=`", "what", "classes: train/val/test", "how to get it"), rows)
    )


def declared_sets() -> dict[str, tuple[ImageSet, Any]]:
    """Name of a task -> its declaration, and its classes or how many are test classes."""
    modules = {
        name: import_module(entry.target.partition(":")[0]) for name, entry in TASKS.builtin.items()
    }
    return {
        name: module.status.args
        for name, module in modules.items()
        if isinstance(getattr(getattr(module, "status", None), "args", (None,))[0], ImageSet)
    }


def _counts(classes: Any) -> str:
    counts = (0, 0, classes) if isinstance(classes, int) else map(len, classes.values())
    return "/".join(map(str, counts))
