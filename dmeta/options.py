"""Plain values as typed options, checked key by key, for any group of settings.

Every refusal names the key in full, and the nearest one that there is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from dmeta.declared import PROVIDED, REQUIRED, Option
from dmeta.registry import nearest
from dmeta.typed_values import typed

_T = TypeVar("_T")


@dataclass(frozen=True)
class NamedOptions:
    """A name from a registry and the options for what it names.

    Attributes:
        name: registered name.
        options: keywords of the registered factory.
    """

    name: str
    options: Mapping[str, Any]


def named_options(group: Any, prefix: str) -> NamedOptions:
    """A group of settings as a name and its options.

    Args:
        group: with the key ``name``.
        prefix: of the group, for messages.

    Raises:
        ValueError: it has no name.
    """
    if not isinstance(group, Mapping) or not isinstance(group.get("name"), str):
        got = group.get("name") if isinstance(group, Mapping) else group
        raise ValueError(f"{prefix}.name must be a registered name, got {got!r}; set {prefix}=...")
    return NamedOptions(group["name"], {k: v for k, v in group.items() if k != "name"})


def checked(cls: type[_T], values: Any, prefix: str) -> _T:
    """`values` as the dataclass `cls`, every key known and of its declared type.

    Raises:
        ValueError: with the key's full name.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix} must be a group of settings, got {values!r}")
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    _refuse_unknown(values, known, prefix)
    hints = typing.get_type_hints(cls, include_extras=True)
    given = {key: typed(value, hints[key], _join(prefix, key)) for key, value in values.items()}
    missing = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.name not in given
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{_join(prefix, missing[0])} must be given, got nothing; set it")
    return cls(**given)


def checked_options(make: Callable[..., Any], choice: NamedOptions, prefix: str) -> dict[str, Any]:
    """The options of `choice`, checked against the keywords of the factory they go to.

    A keyword that is a dataclass (an inner loop, say) is not an option itself: its fields are, and
    they change the keyword's default.

    Args:
        make: the factory; keywords that a run itself provides (network, loss, shapes) are skipped.
        choice: name and options.
        prefix: the group, for messages.

    Raises:
        ValueError: an unknown or ill-typed option.
    """
    hints, defaults = _hints(make), _keywords(make)
    group_of = {
        field.name: name
        for name, default in defaults.items()
        if dataclasses.is_dataclass(default)
        for field in dataclasses.fields(default)
    }
    plain = [name for name, default in defaults.items() if not dataclasses.is_dataclass(default)]
    _refuse_unknown(choice.options, [*plain, *group_of], prefix)
    options: dict[str, Any] = {}
    changes: dict[str, dict[str, Any]] = {}
    for key, value in choice.options.items():
        if key in group_of:
            own = typing.get_type_hints(type(defaults[group_of[key]]), include_extras=True)
            changes.setdefault(group_of[key], {})[key] = typed(value, own[key], f"{prefix}.{key}")
        else:
            options[key] = typed(value, hints.get(key, Any), f"{prefix}.{key}")
    for name, changed in changes.items():
        options[name] = dataclasses.replace(defaults[name], **changed)
    return options


def check_declared(declared: Sequence[Option], choice: NamedOptions, prefix: str) -> None:
    """Check the options of `choice` as `checked_options` does, without importing its factory.

    Args:
        declared: the options of the factory.
        choice: name and options.
        prefix: the group, for messages.

    Raises:
        ValueError: an unknown or ill-typed option.
    """
    known = {each.name: each for each in declared}
    _refuse_unknown(choice.options, list(known), prefix)
    for key, value in choice.options.items():
        hint = known[key].type_of()
        typed(value, _like(known[key].default) if hint is Any else hint, f"{prefix}.{key}")


def _like(default: Any) -> Any:
    """The type of a default, for an option whose own is not known: as many numbers in a list."""
    if isinstance(default, list):
        return tuple[tuple(_like(each) for each in default)]  # type: ignore[misc]
    return Any if default is None or default == REQUIRED else type(default)


def default_options(make: Callable[..., Any]) -> dict[str, Any]:
    """The options that `checked_options` takes for a factory, with their defaults, as plain data.

    `REQUIRED` stands for an option without a default. Options whose default is not plain data (a
    function, say) are left out: no text on a command line could stand for them.

    Args:
        make: the factory.
    """
    found: dict[str, Any] = {}
    for name, default in _keywords(make).items():
        if dataclasses.is_dataclass(default):
            fields = dataclasses.fields(default)
            found |= {field.name: getattr(default, field.name) for field in fields}
        else:
            found[name] = REQUIRED if default is inspect.Parameter.empty else default
    plain = {name: _plain(default) for name, default in found.items()}
    return {name: default for name, default in plain.items() if default is not _NOT_PLAIN}


def _keywords(make: Callable[..., Any]) -> dict[str, Any]:
    """Keyword -> default of a factory, without those that a run provides."""
    parameters = inspect.signature(make).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    made = {
        field.name: field.default_factory()
        for field in (dataclasses.fields(make) if dataclasses.is_dataclass(make) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    return {p.name: made.get(p.name, p.default) for p in named if p.name not in PROVIDED}


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """Keyword -> type of a factory; those that cannot be resolved when the program runs lack."""
    while isinstance(make, functools.partial):
        make = make.func
    target: Any = make.__init__ if inspect.isclass(make) else make
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError:  # names imported for type checkers alone
        found: dict[str, Any] = {}
        for name, hint in getattr(target, "__annotations__", {}).items():
            one = types.SimpleNamespace(__annotations__={name: hint})
            with contextlib.suppress(NameError):
                there = getattr(target, "__globals__", {})
                found |= typing.get_type_hints(one, there, include_extras=True)
        return found


_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    """A default as YAML holds it, or `_NOT_PLAIN`."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _NOT_PLAIN
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, tuple | list):
        items = [_plain(each) for each in value]
        return _NOT_PLAIN if _NOT_PLAIN in items else items
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        group = {key: _plain(each) for key, each in value.items()}
        return _NOT_PLAIN if _NOT_PLAIN in group.values() else group
    return _NOT_PLAIN


def check_fields(options: Any, prefix: str, but: Collection[str] = ()) -> None:
    """Check every field of a dataclass against its type, bounds (`pydantic.PositiveInt`) included.

    Args:
        options: an object of the dataclass.
        prefix: the group, for messages; empty: none.
        but: names of fields that are not settings.

    Raises:
        ValueError: a field is of another type or out of its bounds, with its full name.
    """
    hints = typing.get_type_hints(type(options), include_extras=True)
    for name in [each.name for each in dataclasses.fields(options) if each.name not in but]:
        key, value = _join(prefix, name), getattr(options, name)
        found = typed(value, hints[name], key)
        if isinstance(value, str) and not isinstance(found, str):
            raise ValueError(
                f"{key} must be {found!r}, not a text of it, got {value!r}; remove the quotes"
            )


def refuse_unread(options: Any, names: Sequence[str], prefix: str, unless: str) -> None:
    """Refuse settings that nothing reads, for they would change nothing: all but their defaults.

    Args:
        options: an object of a dataclass.
        names: of the fields that it does not read, as its other fields are.
        prefix: the group, for messages.
        unless: with which they are read, such as ``algorithm.head=svm``.

    Raises:
        ValueError: one of them is not at its default.
    """
    defaults = {each.name: each.default for each in dataclasses.fields(options)}
    for name in names:
        if (value := getattr(options, name)) != defaults[name]:
            raise ValueError(
                f"{_join(prefix, name)} must not be set without {unless}, which alone reads it, "
                f"got {value}; remove it, or set {unless}"
            )


def _refuse_unknown(values: Mapping[str, Any], known: list[str], prefix: str) -> None:
    for key in values:
        if key not in known:
            options = ", ".join(known) or "nothing"
            raise ValueError(
                f"unknown key '{_join(prefix, key)}'{nearest(key, known)}; "
                f"{prefix or 'the configuration'} has {options}"
            )


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key
