"""``shared:///folder``: an address that all processes of this machine can read and write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class SharedFiles(LocalFileSystem):
    """The disk, by an address instead of a path."""

    protocol = "shared"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("shared://"))

    def unstrip_protocol(self, name: str) -> str:
        """The address of a path."""
        return f"shared://{self._strip_protocol(name)}"


def announce(folder: Path) -> None:
    """Let fsspec know of it, here and in every process that has `folder` on its path."""
    fsspec.register_implementation("shared", SharedFiles, clobber=True)
    (folder / "shared_files-1.dist-info").mkdir()
    for name, text in {
        "METADATA": "Metadata-Version: 2.1\nName: shared_files\nVersion: 1\n",
        "entry_points.txt": "[fsspec.specs]\nshared = tests.search.shared_files:SharedFiles\n",
    }.items():
        (folder / "shared_files-1.dist-info" / name).write_text(text)
