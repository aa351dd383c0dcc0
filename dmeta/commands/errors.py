"""What went wrong, as one message that says what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dmeta.commands.hydra_app import compose, config_dir
from dmeta.registry import nearest


def told(error: Exception, verb: str, overrides: Sequence[str]) -> tuple[str, int]:
    """Message and exit code of an error: 2 for what the user gave, 1 for what happened."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error, verb, overrides), 2
    if isinstance(error, ValueError):
        return str(error), 2
    return f"{type(error).__name__}: {error}", 1


def explain(error: BaseException, verb: str, overrides: Sequence[str]) -> str:
    """One message for an error of composing the settings; Hydra's own hints made specific."""
    text = str(error).strip()
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].removeprefix("+")
        others = [known for known in _known_keys(verb, overrides) if known != key]
        return f"unknown key '{key}'{nearest(key, others)}"
    if match := re.search(r"Could not find '([^'/]+)/([^']+)'", text):
        group, name = match[1], match[2]
        names = _group_names(group)
        return f"{group} must be one of {', '.join(names)}, got '{name}'{nearest(name, names)}"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} must be given, got nothing; add {match[1]}=..."
    if match := re.search(
        r"Could not override '?([^'\n]+)'?\.\nNo match in the defaults list", text
    ):
        return f"unknown group '{match[1]}'{nearest(match[1], _group_names('.'))}"
    return text.split("\n\nSet the environment variable")[0]


def _group_names(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def _known_keys(verb: str, overrides: Sequence[str]) -> list[str]:
    """Every key that exists under the groups that the overrides choose."""
    choices = [o for o in overrides if re.fullmatch(r"[a-z]+=[a-z0-9_]+", o)]
    settings: dict[str, Any] = {}
    for attempt in (choices, []):
        try:
            settings = compose(verb, attempt, complete=False)
            break
        except Exception:  # a wrong choice among them: do without
            continue
    groups = [path.name for path in config_dir().iterdir() if path.is_dir()]
    return [*groups, *_flattened(settings)]


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
