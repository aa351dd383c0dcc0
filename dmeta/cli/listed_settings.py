"""Which groups and keys a command line has, read from the YAML files without Hydra.

Much quicker than composing, and no more exact than completion needs it: interpolations and the
user's own presets are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from dmeta.cli.config_files import config_dir

_FIRST = ("experiment", "algorithm", "task")
"""Groups that choose others, in this order."""

_PACKAGE = re.compile(r"#\s*@package\s+(\S+)")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class ListedSettings:
    """What can be set.

    Attributes:
        groups: group -> the preset that is chosen, ``null`` for none.
        keys: full name of a key -> its value with these presets, as YAML writes it.
    """

    groups: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


def settings_of(verb: str, words: Sequence[str]) -> ListedSettings:
    """The groups and keys of a verb.

    Args:
        verb: name of its file in configs/.
        words: what is typed already; ``group=name`` decides which keys there are.
    """
    found = ListedSettings()
    _read(verb, "", found, typed=frozenset())
    if verb == "evaluate":  # its task is that of the run, unless another is named
        found.groups["task"] = "null"
    pairs = (word.partition("=")[::2] for word in words)
    typed = {group: name for group, name in pairs if group in found.groups and name}
    found.groups |= typed
    last = [group for group in found.groups if group not in _FIRST]
    for group in (*_FIRST, *last):
        name = found.groups.get(group, "null")
        if (config_dir() / group / f"{name}.yaml").is_file():
            _read(f"{group}/{name}", group.replace("/", "."), found, typed)
    return found


def _read(
    name: str, package: str, found: ListedSettings, typed: Mapping[str, str] | frozenset[str]
) -> None:
    """Add the groups and keys of a file, and of those that it includes."""
    text = (config_dir() / f"{name}.yaml").read_text()
    content: dict[str, Any] = yaml.load(text, _LOADER) or {}
    for entry in content.pop("defaults", ()):
        if isinstance(entry, str):
            if entry != "_self_":
                _read(entry.lstrip("/"), "", found, typed)
            continue
        group, chosen = next(iter(entry.items()))
        group = group.removeprefix("override ").lstrip("/")
        if not group.startswith("hydra/") and group not in typed:
            found.groups[group] = "null" if chosen is None else str(chosen)
    content.pop("hydra", None)
    named = _PACKAGE.match(text)
    package = package if named is None else named[1].replace("_global_", "")
    for key, value in _flat(content, f"{package}." if package else ""):
        if key.rpartition(".")[2] != "name":
            found.keys[key] = value


def _flat(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _written(value)


def _written(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
