"""Versions of dmeta and of what it runs on, without importing any of it."""

from __future__ import annotations

import platform
from importlib import metadata

from dmeta import __version__

LIBRARIES = ("torch", "torchvision", "ray")


def version_of(package: str) -> str | None:
    """The installed version of a package; None: it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def version_lines() -> list[str]:
    """One line each: dmeta, its libraries, Python."""
    libraries = [f"{name} {version_of(name) or 'not installed'}" for name in LIBRARIES]
    return [f"dmeta {__version__}", *libraries, f"Python {platform.python_version()}"]
