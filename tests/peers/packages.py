"""Finding and importing other libraries, from the environment or from a folder.

None is a dependency of dmeta. Knows nothing of what they compute.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import subprocess
import sys
import warnings
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

_WITHOUT_INIT = {"learn2learn": ("algorithms",)}
"""Package -> packages in it whose __init__, like its own, asks for extensions to be compiled.

Their __init__ is not run: what lies in them can be imported all the same.
"""


def is_there(name: str, folder: Path | None = None) -> bool:
    """Whether a package can be found, in `folder` or (None) in the environment."""
    return _spec_of(name, folder) is not None


def import_peer(name: str, folder: Path | None = None) -> str | None:
    """Make a package importable by its name.

    Args:
        name: of the package.
        folder: that the package lies in; None: wherever the environment has it.

    Returns: its version, of a git checkout its commit; None: it is not there.

    Raises:
        Exception: whatever its own code raises.
    """
    spec = _spec_of(name, folder)
    if spec is None:
        return None
    loaded = sys.modules.get(name)
    if loaded is None or loaded.__spec__ is None or loaded.__spec__.origin != spec.origin:
        _load(spec)
    return _version_of(name) if folder is None else _commit_of(folder)


def _spec_of(name: str, folder: Path | None) -> ModuleSpec | None:
    """Where a package is, whatever of that name has been imported before."""
    importlib.invalidate_caches()
    if folder is not None:
        found = PathFinder.find_spec(name, [str(folder.expanduser().resolve())])
    else:
        tried = (finder.find_spec(name, None) for finder in sys.meta_path)
        found = next((spec for spec in tried if spec is not None), None)
    # A folder without __init__ is nobody's package (origin None).
    return None if found is None or found.origin is None else found


def _load(spec: ModuleSpec) -> None:
    name = spec.name
    _forget(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may be older than this torch
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            if name not in _WITHOUT_INIT:
                assert spec.loader is not None
                spec.loader.exec_module(module)
        for inside in _WITHOUT_INIT.get(name, ()):
            full = f"{name}.{inside}"
            if (within := PathFinder.find_spec(full, module.__path__)) is None:
                raise ModuleNotFoundError(f"No module named '{full}'")
            sys.modules[full] = importlib.util.module_from_spec(within)
    except BaseException:
        _forget(name)
        raise


def _forget(name: str) -> None:
    for key in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        del sys.modules[key]


def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit_of(folder: Path) -> str:
    command = ["git", "-C", str(folder.expanduser()), "rev-parse", "--short=7", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return done.stdout.strip() or "unknown"
