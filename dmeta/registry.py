"""Registries: from a name in a config to the thing that it names.

A room (algorithms, models, tasks) owns one registry. Other packages add to it through an entry
point group (``dmeta.algorithms``, ``dmeta.models``, ``dmeta.tasks``) whose objects are `Entry`s.
This module knows nothing of what is registered.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry(Generic[_T]):
    """One registered thing.

    Attributes:
        make: called with the entry's own options as keywords.
        summary: one line for `dmeta list`.
        source: the paper or origin, e.g. ``Finn et al. 2017, arXiv:1703.03400``.
        settings: what choosing it changes of the other settings, under the keys that `dmeta.train`
            takes, e.g. ``{"gradient": "first_order", "task.queries": 15}``.
    """

    make: Callable[..., _T]
    summary: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gradient(self) -> str:
        """The name of the meta-gradient estimator that belongs to an algorithm."""
        return str(self.settings.get("gradient", "exact"))


@dataclass(frozen=True)
class LazyEntry:
    """An entry whose factory is imported when it is first asked for.

    So a registry knows its names without importing torch.

    Attributes:
        target: where the factory is, as in an entry point: ``dmeta.algorithms.maml:Maml``.
        summary: as of `Entry`.
        source: as of `Entry`.
        settings: as of `Entry`.
        is_ready: whether the target is what `Entry.make` returns, without options.
    """

    target: str
    summary: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_ready: bool = False

    def load(self) -> Entry[Any]:
        """The entry, its factory imported."""
        module, _, name = self.target.partition(":")
        found = getattr(import_module(module), name)
        make = (lambda: found) if self.is_ready else found
        return Entry(make, self.summary, self.source, self.settings)


def nearest(name: str, known: Iterator[str] | list[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest known name, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def check_names(registry: Registry[Any], names: Iterable[str], key: str) -> None:
    """Raise ValueError, with the setting's key and the nearest name, if one is not registered."""
    for name in names:
        try:
            registry[name]
        except UnknownNameError as error:
            raise ValueError(f"{key}: {error}") from None


def plugin_names(kind: str) -> list[str]:
    """Names that installed packages add to a registry; imports none of them.

    Args:
        kind: of the registry, such as ``algorithm``.
    """
    return sorted(metadata.entry_points(group=_group(kind)).names)


def _group(kind: str) -> str:
    return f"dmeta.{kind}s"


class UnknownNameError(ValueError, KeyError):
    """Nothing of that name is registered; the message has the nearest one that is.

    A KeyError as well, so that a `Registry` is a mapping like any other (``get``, ``in``).
    """

    __str__ = Exception.__str__  # that of KeyError would put the message in quotes


class Registry(Mapping[str, Entry[_T]], Generic[_T]):
    """Name -> entry. A plug-in is imported when it is asked for; a built-in name is never one."""

    def __init__(self, kind: str, entries: Mapping[str, Entry[_T] | LazyEntry]) -> None:
        self.kind = kind
        self._builtin = dict(entries)
        self._loaded: dict[str, Entry[_T]] = {}

    @property
    def builtin(self) -> Mapping[str, Entry[_T] | LazyEntry]:
        """The entries of dmeta itself; imports none of their factories."""
        return self._builtin

    def _imported(self, point: metadata.EntryPoint) -> Entry[_T]:
        try:
            entry: Any = point.load()
        except Exception as error:  # whatever the import of another package raises
            raise ValueError(
                f"entry point {point.value!r} in group {_group(self.kind)} must be importable, got "
                f"{type(error).__name__}: {error}; repair or uninstall the package that has it"
            ) from error
        if not isinstance(entry, Entry):
            raise ValueError(
                f"entry point {point.value!r} in group {_group(self.kind)} must be a "
                f"dmeta.registry.Entry, got {type(entry).__name__}; repair or uninstall the "
                "package that has it"
            )
        return entry

    def __getitem__(self, name: str) -> Entry[_T]:
        """The entry called `name`.

        Raises:
            UnknownNameError: nothing of that name is registered; the message has the nearest one.
        """
        if name in self._loaded:
            return self._loaded[name]
        points = metadata.entry_points(group=_group(self.kind), name=name)
        builtin = self._builtin.get(name)
        if builtin is not None and points:
            raise ValueError(
                f"entry point {next(iter(points)).value!r} must not take the name of the built-in "
                f"{self.kind} {name!r}; rename it"
            )
        if builtin is not None:
            found = builtin.load() if isinstance(builtin, LazyEntry) else builtin
        elif points:
            found = self._imported(next(iter(points)))
        else:
            raise UnknownNameError(
                f"{self.kind} must be one of {', '.join(sorted(self))}, "
                f"got {name!r}{nearest(name, list(self))}"
            )
        self._loaded[name] = found
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._builtin, *plugin_names(self.kind)]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self)})"

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))
