"""Size of settings: YAML aliases and interpolations are counted before they are expanded.

A file of a few hundred bytes can name what was named before, ten times, again and again: it becomes
gigabytes, and the process that expands it answers no signal meanwhile. What the settings mean is
unknown here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

MAX_BYTES = 256 << 10
"""Of a YAML file; dmeta's own have a few kilobytes."""

MAX_EXPANDED = 1_000_000
"""Values and characters that a file, or the settings, may have when all is expanded."""

_INTERPOLATION = re.compile(r"\$\{([^{}]*)\}")
_KEY = re.compile(r"\.*[A-Za-z_][\w.\[\]]*")
_HARMLESS = ("oc.env:", "oc.decode:")
"""Resolvers in whose arguments an interpolation may stand: what they return is not looked up."""


def check_yaml(name: str, text: str) -> None:
    """Refuse a YAML file that is too large, or would become so.

    A file that is not YAML is left to the code that reads it.

    Raises:
        ValueError: it is; the message names it.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(
            f"a YAML file of settings must have at most {MAX_BYTES >> 10} KiB, got {name} with "
            f"{len(text) >> 10}; remove what is no setting"
        )
    try:
        node = yaml.compose(text, yaml.SafeLoader)  # an alias is the node that it names
        size = 0 if node is None else _size(node, {})
        tree = yaml.safe_load(text) if size <= MAX_EXPANDED else None
    except yaml.YAMLError:
        return
    except RecursionError:
        size = MAX_EXPANDED + 1
    _check_size(size, f"{name} with its aliases (*name)", "write out what they stand for")
    check_interpolations(name, tree)


def check_interpolations(name: str, tree: Any) -> None:
    """Refuse settings that are too large once their interpolations (``${key}``) are resolved.

    Args:
        name: of the settings, for the message.
        tree: nested dicts, lists and values, with interpolations as texts.

    Raises:
        ValueError: they are, or they cannot be counted.
    """
    counter = _Counter(name, tree)
    try:
        size = counter.size_of(tree, ())
    except RecursionError:
        size = MAX_EXPANDED + 1
    _check_size(size, f"{name} with its interpolations", "write out what they stand for")


def _check_size(size: int, what: str, remedy: str) -> None:
    if size > MAX_EXPANDED:
        raise ValueError(
            f"settings must expand to at most {MAX_EXPANDED:,} values and characters, got more of "
            f"{what}; {remedy}"
        )


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Of a node with everything below it, as often as it is named."""
    if id(node) not in known:
        known[id(node)] = MAX_EXPANDED + 1  # of a node that holds itself
        value = node.value
        children = [part for pair in value for part in pair] if _is_mapping(node) else value
        parts = len(value) if isinstance(value, str) else sum(_size(c, known) for c in children)
        known[id(node)] = 1 + parts
    return known[id(node)]


def _is_mapping(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode)


class _Counter:
    def __init__(self, name: str, tree: Any) -> None:
        self._name, self._tree = name, tree
        self._known: dict[tuple[str, ...], int] = {}

    def size_of(self, value: Any, path: tuple[str, ...]) -> int:
        """Of a value at a path, resolved."""
        if path not in self._known:
            self._known[path] = 0  # one that refers to itself is refused when it is resolved
            self._known[path] = 1 + self._below(value, path)
        return self._known[path]

    def _below(self, value: Any, path: tuple[str, ...]) -> int:
        if isinstance(value, Mapping):
            return sum(self.size_of(child, (*path, str(key))) for key, child in value.items())
        if isinstance(value, list | tuple):
            return sum(self.size_of(child, (*path, str(i))) for i, child in enumerate(value))
        if not isinstance(value, str):
            return 0
        return len(value) + sum(self._referred(inside, path) for inside in self._inside(value))

    def _inside(self, text: str) -> list[str]:
        """What stands between the braces of a text's interpolations."""
        found: list[str] = []
        while inner := _INTERPOLATION.findall(text):
            found += inner
            text = _INTERPOLATION.sub("\0", text)
        for outer in found:
            if "\0" in outer and not outer.startswith(_HARMLESS):
                shown = outer.replace("\0", "${...}")
                raise ValueError(
                    "an interpolation must name its key itself, got one within another in "
                    f"{self._name}: ${{{shown}}}; write out the inner one"
                )
        return found

    def _referred(self, inside: str, path: tuple[str, ...]) -> int:
        """Size of all that an interpolation may look up: its key, or keys among its arguments."""
        total = 0
        for key in _KEY.findall(inside):
            dots = len(key) - len(key.lstrip("."))
            base = path[: len(path) - dots] if dots else ()
            names = [part for part in re.split(r"[.\[\]]+", key.lstrip(".")) if part]
            total += self._size_at((*base, *names))
        return total

    def _size_at(self, path: tuple[str, ...]) -> int:
        value = self._tree
        for name in path:
            if isinstance(value, Mapping) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
                value = value[int(name)]
            else:
                return 0  # there is no such key: resolving it raises
        return self.size_of(value, path)
