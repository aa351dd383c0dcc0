"""The YAML files that come with dmeta: where they are, and which there are."""

from __future__ import annotations

from pathlib import Path

import dmeta


def config_dir() -> Path:
    """The folder of YAML files: inside the installed package, or next to it in a checkout."""
    package = Path(dmeta.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def preset_names(group: str) -> list[str]:
    """Names of the presets of a group, such as ``algorithm`` or ``search/space``, sorted."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
