"""Which settings a command line has: groups, choices, and keys with their defaults and help.

Configs are those of `choices` and `verb_configs`, and the YAML files of presets, which hold what
differs. Imports neither torch nor Ray nor Hydra. Interpolations and the
user's own presets are not read: that is for Hydra, which composes the settings themselves.
"""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from dmeta.cli.settings.choices import REGISTRIES, Config, choice_of, choices_of
from dmeta.cli.settings.config_files import config_dir, preset_names
from dmeta.cli.settings.verb_configs import verb_config
from dmeta.declared import Option
from dmeta.registry import Entry, LazyEntry

GROUPS = (
    "experiment",
    "algorithm",
    "task",
    "model",
    "gradient",
    "outer",
    "runtime",
    "search",
    "search/space",
    "bench",
)
"""Groups of which one choice is made."""

_COMPOSED = (
    *("model", "gradient", "outer", "runtime", "bench", "search"),
    *("algorithm", "task", "experiment"),
)
"""Groups with keys; a later one changes what an earlier one has."""

_PACKAGE = re.compile(r"#\s*@package\s+(\S+)")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class ListedSettings:
    """What can be set.

    Attributes:
        groups: group -> its choice, ``null`` for none.
        keys: full name of a key -> it, with its default under these choices.
    """

    groups: dict[str, str] = field(default_factory=dict)
    keys: dict[str, Option] = field(default_factory=dict)


def names_of(group: str) -> list[str]:
    """What can be chosen for a group of settings (``algorithm``), sorted; none for another key."""
    if group not in GROUPS:
        return []
    return sorted({*choices_of(group), *preset_names(group)})


def choice_summary(group: str, name: str) -> str:
    """One line on a choice; empty if it is a preset. Imports no part of dmeta and no plug-in."""
    registry = REGISTRIES.get(group)
    entry: Entry[Any] | LazyEntry | None = registry.builtin.get(name) if registry else None
    if registry is not None and entry is None:
        return "plug-in"
    return "" if entry is None else entry.summary


def settings_of(verb: str, words: Sequence[str]) -> ListedSettings:
    """The groups and keys of a verb.

    Args:
        verb: the verb.
        words: what is typed already; ``group=name`` decides which keys there are.
    """
    found = ListedSettings()
    _read_verb(verb, found)
    if verb == "evaluate":  # its task is that of the run, unless another is named
        found.groups["task"] = "null"
    pairs = (word.partition("=")[::2] for word in words)
    typed = {group: name for group, name in pairs if group in found.groups and name}
    found.groups |= typed
    _choose(found, typed)
    for group in _COMPOSED:
        name = found.groups.get(group, "null")
        if name in choices_of(group):
            config = choice_of(group, name)
            if (verb, group) == ("evaluate", "task"):  # other keys, or other values, than the run's
                config = Config(tuple(replace(each, default=None) for each in config.options))
            _add(found, config.options, config.values)
        elif name in preset_names(group):
            _add(found, (), _read_preset(group, name).values)
    return found


def _choose(found: ListedSettings, typed: Mapping[str, str]) -> None:
    """Settle which choices come with others; what is typed or in an experiment stays."""
    settled = set(typed)
    for group in ("experiment", "algorithm", "task"):
        name = found.groups.get(group, "null")
        if name in choices_of(group):
            chosen = choice_of(group, name).chosen
        elif name in preset_names(group):
            chosen = _read_preset(group, name).chosen
        else:
            continue
        new = {g: n for g, n in chosen.items() if g in found.groups and g not in settled}
        found.groups |= new
        settled |= new.keys() if group == "experiment" else set()


def _read_verb(verb: str, found: ListedSettings) -> None:
    own = verb_config(verb)
    assert own is not None
    for each in own.defaults:
        if isinstance(each, str):
            if each != "_self_":
                _read_verb(each, found)
            continue
        found.groups |= {group: name or "null" for group, name in each.items()}
    found.groups |= own.config.chosen
    _add(found, own.config.options, own.config.values)


@functools.cache
def _read_preset(group: str, name: str) -> Config:
    """What a YAML file of dmeta sets."""
    text = (config_dir() / group / f"{name}.yaml").read_text()
    content: dict[str, Any] = yaml.load(text, _LOADER) or {}
    pairs = [next(iter(e.items())) for e in content.pop("defaults", ()) if isinstance(e, Mapping)]
    chosen = {
        key.removeprefix("override ").lstrip("/"): "null" if name is None else str(name)
        for key, name in pairs
    }
    given = _PACKAGE.match(text)
    package = group.replace("/", ".") if given is None else given[1].replace("_global_", "")
    return Config((), chosen, dict(flattened(content, f"{package}." if package else "")))


def _add(found: ListedSettings, options: Sequence[Option], values: Mapping[str, Any]) -> None:
    """Add keys; values are those of keys that may be added later."""
    for each in options:
        if each.name.rpartition(".")[2] != "name":
            found.keys[each.name] = each
    for key, value in values.items():
        known = found.keys.get(key, Option(key, value))
        found.keys[key] = Option(key, value, known.help, known.type_of)


def words_of_type(hint: Any) -> list[str]:
    """What can be typed for a type besides numbers and texts: ``auto``, ``true``, ``null``."""
    if hint is bool:
        return ["true", "false"]
    if hint is type(None):
        return ["null"]
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return [written(part) for part in parts]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [word for part in parts for word in words_of_type(part)]
    return []


def written(value: Any) -> str:
    """A default as it is typed on a command line."""
    if value is None:
        return "null"
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        return repr(value).replace("e", ".0e")  # a number for YAML, too
    return str(value).lower() if isinstance(value, bool) else str(value)


def flattened(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Full name and value of every key of nested settings.

    Args:
        content: the settings.
        prefix: of the names, with its dot.
    """
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
