"""Which data sets are there, which are not, and how to get them (for ``dmeta data``).

Reads file lists only, decodes nothing. Sources of other packages are not listed: only they know
their files.
"""

from __future__ import annotations

from pathlib import Path

from dmeta.tasks import features, miniimagenet, omniglot
from dmeta.tasks.status import DataSetStatus, MissingDataError, default_root

__all__ = ["DataSetStatus", "MissingDataError", "default_root", "inventory"]

_GENERATED = ("glyphs", "sinusoid")


def inventory(root: Path) -> list[DataSetStatus]:
    """The state of every built-in task source's data under `root`, sorted by name."""
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
        for name in _GENERATED
    ]
    read = [module.status(root) for module in (features, miniimagenet, omniglot)]
    return sorted([*generated, *read], key=lambda status: status.name)
