"""Presets of plug-ins: the settings of what other packages register by entry point.

A built-in method has a YAML file in configs/; a plug-in's preset is made from the signature of its
factory, so that it is chosen, changed, searched and shown as a built-in one is. Knows no Hydra.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from importlib import import_module
from typing import Any

from dmeta.options import default_options
from dmeta.registry import Entry, Registry, plugin_names
from dmeta.training.config import EPISODE_KEYS

_REGISTRIES = {
    "algorithm": ("dmeta.algorithms", "ALGORITHMS"),
    "gradient": ("dmeta.bilevel.estimators", "ESTIMATORS"),
    "model": ("dmeta.models", "MODELS"),
    "task": ("dmeta.tasks", "TASKS"),
}
"""Group of settings -> where its registry is; imported only if a package adds to it."""

_WAYS = {"classification": 5, "regression": 1}


def plugins_of(group: str) -> list[str]:
    """Names that installed packages add to a group of settings."""
    return plugin_names(group) if group in _REGISTRIES else []


def plugin_presets() -> dict[tuple[str, str], dict[str, Any]]:
    """(Group, name) of every plug-in -> its preset, relative to the root of the settings.

    Raises:
        ValueError: a plug-in cannot be imported, or names settings that there are not.
    """
    found = {}
    for group, (module, name) in _REGISTRIES.items():
        if plugin_names(group):
            registry: Registry[Any] = getattr(import_module(module), name)
            for plugin, entry in registry.plugins.items():
                found[group, plugin] = _preset(group, plugin, entry)
    return found


def _preset(group: str, name: str, entry: Entry[Any]) -> dict[str, Any]:
    """A plug-in's preset, in the form of the files in configs/."""
    chosen = {"gradient": "exact"} if group == "algorithm" else {}
    # Keywords of these names are not its own: a run reads them.
    own = {"name": name, **_sizes(group, entry.make)}
    values: dict[str, Any] = {group: {**own, **default_options(entry.make), **own}}
    if group == "task" and len(_constant(entry.make, "input_shape", ())) == 3:
        chosen["model"] = "conv4"
    for key, value in entry.settings.items():
        if key in (*_REGISTRIES, "outer"):
            chosen[key] = value
            continue
        *path, last = key.split(".")
        inner = values
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return {"defaults": [{f"override /{g}": n} for g, n in chosen.items()], **values}


def _sizes(group: str, make: Callable[..., Any]) -> dict[str, Any]:
    """The size of a task, which every source is asked for."""
    if group != "task":
        return {}
    kind = _constant(make, "kind", "classification")
    sizes = {"ways": _WAYS.get(kind, 5), "shots": 1, "queries": 15}
    if kind == "regression":
        sizes |= {"shots": 10, "queries": 10}
    return {**sizes, **{f"train_{key}": None for key in EPISODE_KEYS}}


def _constant(make: Callable[..., Any], name: str, otherwise: Any) -> Any:
    """A constant of the class that a factory makes, if it is one and says its class."""
    made: Any = make
    if not inspect.isclass(make):
        try:
            made = typing.get_type_hints(make).get("return")
        except (NameError, TypeError):
            return otherwise
    value = getattr(made, name, otherwise)
    return value if isinstance(value, str | tuple | list) else otherwise
