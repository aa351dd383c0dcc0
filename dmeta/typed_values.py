"""Plain values as the types that settings are declared with, bounds included.

Every refusal names the key in full, what must hold, what was given and what to change.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

_LARGEST = 2**63 - 1
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_UNIONS = (typing.Union, types.UnionType)

AtLeastTwo: TypeAlias = Annotated[int, Field(ge=2)]
"""Of what a mean and its confidence are made."""


def typed(value: Any, hint: Any, key: str) -> Any:
    """A value as the type `hint`.

    Raises:
        ValueError: it is of another, or NaN, infinite or too large; with the key.
    """
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, hint):
        return value
    if isinstance(value, bool) and bool not in (hint, *typing.get_args(hint)) and hint is not Any:
        raise ValueError(f"{key} must be {_words(hint)}, got {value}; change it")
    _refuse_unusable(value, key)
    try:
        found = _adapter(hint).validate_python(value)
    except ValidationError as error:
        raise ValueError(_refusal(error, hint, value, key)) from None
    _refuse_unusable(found, key)
    return found


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def bounds_of(hint: Any) -> list[tuple[str, float]]:
    """Sign and bound of each bound of a number's type: ``[(">=", 1)]``, as one would say it."""
    if not hasattr(hint, "__metadata__"):
        parts = typing.get_args(hint)
        return next((found for part in parts if (found := bounds_of(part))), [])
    limits = [limit for each in hint.__metadata__ for limit in getattr(each, "metadata", [each])]
    found = [
        (sign, getattr(limit, kind))
        for limit in limits
        for kind, sign in _SIGNS.items()
        if hasattr(limit, kind)
    ]
    whole = typing.get_args(hint)[0] is int
    return [(">=", bound + 1) if whole and sign == ">" else (sign, bound) for sign, bound in found]


def _refusal(error: ValidationError, hint: Any, value: Any, key: str) -> str:
    """The message for a value of another type, or out of its bounds."""
    out_of_bounds = next((e for e in error.errors() if _SIGNS.keys() & e.get("ctx", {})), None)
    if out_of_bounds is None:
        return f"{key} must be {_words(hint)}, got {_as_typed(value)}; change it"
    bounds = bounds_of(hint)
    allowed = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds)
    remedy = "raise it" if all(sign.startswith(">") for sign, _ in bounds) else "change it"
    words = " or ".join([allowed, *_named_values(hint)])
    return f"{key} must be {words}, got {_as_typed(out_of_bounds['input'])}; {remedy}"


def _as_typed(value: Any) -> str:
    """A value as settings write it."""
    return "null" if value is None else repr(value)


def _named_values(hint: Any) -> list[str]:
    """What a number may be instead: ``null``, ``auto``."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else ()
    return [_words(part) for part in parts if part is type(None) or _is_literal(part)]


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal


def _refuse_unusable(value: Any, key: str) -> None:
    """No setting means anything as NaN or infinity, or beyond what torch and numpy count with."""
    if isinstance(value, tuple | list):
        for each in value:
            _refuse_unusable(each, key)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be finite, got {value}; change it")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"{key} must be in -{_LARGEST}..{_LARGEST}, got {value}; change it")


def _words(hint: Any) -> str:
    """A type as a user would say it."""
    if hint is type(None):
        return "null"
    if hasattr(hint, "__metadata__"):
        return _words(typing.get_args(hint)[0])
    if _is_literal(hint):
        return " or ".join(str(arg) for arg in typing.get_args(hint))
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and Ellipsis not in args:
        return f"a list of {len(args)}: [{', '.join(_words(arg) for arg in args)}]"
    if typing.get_origin(hint) is tuple:
        return f"a list such as [{_words(args[0])}]"
    if typing.get_origin(hint) is Mapping and args[1] is Any:
        return "a group"
    if typing.get_origin(hint) is Mapping:
        return f"a group, of which each is {_words(args[1])}"
    if args and typing.get_origin(hint) not in (list, dict):
        return " or ".join(_words(arg) for arg in args)
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        Any: "...",
    }
    return names.get(hint, str(hint))
