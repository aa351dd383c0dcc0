"""The page of data sets that are declared: where each lies, how to get it, its licence."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dmeta.tasks import TASKS
from dmeta.tasks.image_set import ImageSet
from reference_pages.text import cell, linked_papers, table


def data_sets_page() -> str:
    """The page."""
    rows = []
    for name, (declared, classes) in sorted(declared_sets().items()):
        entry = TASKS.builtin[name]
        counts = (0, 0, classes) if isinstance(classes, int) else tuple(map(len, classes.values()))
        rows.append(
            (
                f"`{name}`",
                f"{entry.summary} ({linked_papers(entry.source)})",
                "/".join(map(str, counts)),
                cell(declared.how_to_get),
                cell(declared.licence),
            )
        )
    return (
        "# Image data sets\n\n"
        "Read from the data root (`DMETA_DATA` or `task.root`), from a folder or a zip. "
        "`dmeta data` says which are there, `dmeta data check task=NAME` what is in one. This page "
        "is generated from the declarations.\n\n"
        + table(("`task=`", "what", "classes: train/val/test", "how to get it", "licence"), rows)
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
