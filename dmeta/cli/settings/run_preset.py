"""The settings of an existing run as a preset: ``experiment=RUN/config.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from dmeta.training.moved_keys import with_moved_keys

_GROUPS = ("algorithm", "gradient", "model", "task", "outer")
_OF_THE_RUN = ("run_dir", "resume", "runtime", "checkpoint", "device")
"""Where it ran, which is not for another run."""


def preset_of_run(text: str, file: str) -> str:
    """A YAML file of settings.

    Args:
        text: of a run's config.json.
        file: its name, for the message.

    Raises:
        ValueError: it holds something else.
    """
    try:
        settings = with_moved_keys(json.loads(text)["settings"])
        names = {group: settings[group]["name"] for group in _GROUPS}
        if not all(isinstance(name, str) for name in names.values()):
            raise ValueError("a group whose name is no text")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"experiment must be a preset's name, a YAML file or the config.json of a run, got "
            f"{file}, which holds no settings of a run; choose another file"
        ) from None
    kept = {key: _literal(value) for key, value in settings.items() if key not in _OF_THE_RUN}
    defaults = [{f"override /{group}": name} for group, name in names.items()]
    body = yaml.safe_dump({"defaults": defaults, **kept}, sort_keys=False, allow_unicode=True)
    return f"# @package _global_\n# The settings of a run.\n{body}"


def _literal(value: Any) -> Any:
    """Plain data in which no text is an interpolation."""
    if isinstance(value, Mapping):
        return {key: _literal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_literal(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
