"""Reads pickle files that hold data alone: numbers, texts, containers and arrays of numbers.

A pickle is a program that may call any function of Python. Here it may call those of `_ALLOWED`
alone, which make arrays, numbers and dicts; whatever else it names is refused before it is
imported. numpy's own functions are not called with what the file says: types and sizes of arrays
are checked first. What the data mean is unknown here.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_NUMBERS = re.compile(r"[biuf][1248]")
"""Types of numbers, as numpy writes them."""

_ERRORS = (
    pickle.UnpicklingError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    EOFError, ImportError, MemoryError, OverflowError, RecursionError,
)  # fmt: skip
"""What a damaged or a malicious file may raise."""


def load_plain_pickle(path: Path) -> Any:
    """What a pickle of Python 2 or 3 holds; text of Python 2 is read as Latin-1.

    Args:
        path: a file, of any protocol.

    Raises:
        ValueError: it is damaged, or names anything but plain data.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except _ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"a pickle must hold numbers, texts, lists, dicts and numpy arrays of numbers alone, "
            f"got {path} ({reason}); nothing of it was run: use a file from its publisher, or "
            "another form of the data set"
        ) from None


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what the file names."""
        found = _ALLOWED.get(f"{module}.{name}".replace("numpy._core.", "numpy.core."))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        return found


class _Call:
    """A function that a file can call and not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Type:
    """A type of numbers, filled as `numpy.dtype` is."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, *_: object) -> None:
        self.dtype = _number_type(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *parts = state
        if any(part is not None for part in parts[:3]):
            raise pickle.UnpicklingError("it has arrays of records")
        self.dtype = _number_type(self.dtype.str[1:], order)


class _Array(np.ndarray[Any, Any]):
    """An array that can only be filled with numbers."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_fortran_order, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        dtype = _checked(shape, kind, content)
        state = (1, shape, dtype, bool(in_fortran_order), bytes(content))
        super().__setstate__(state)


def _number_type(name: str, order: str = "|") -> np.dtype[Any]:
    if not _NUMBERS.fullmatch(name) or order not in ("|", "<", ">", "="):
        raise pickle.UnpicklingError(f"it has arrays of type {name!r}, not of numbers")
    return np.dtype(f"{order}{name}")


def _checked(shape: Any, kind: Any, content: Any) -> np.dtype[Any]:
    """The type of an array's numbers, if its content is as large as it says."""
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("it has arrays of other things than numbers")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError(f"it has an array of shape {shape!r}")
    num_bytes = kind.dtype.itemsize
    for length in shape:
        num_bytes *= length
    if num_bytes != len(content):
        raise pickle.UnpicklingError(f"it has an array of {len(content)} bytes, not {num_bytes}")
    return kind.dtype


def _empty_array(*_: object) -> _Array:
    return _Array((0,), np.uint8)


def _array_of_buffer(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    dtype = _checked(shape, kind, content)
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")
    return array.view(_Array)


def _number(kind: Any, content: Any) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, _checked((), kind, content))[0].item()


def _bytes_of_text(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in the protocols of Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it decodes bytes")
    return text.encode("latin1")


_ALLOWED = {
    "numpy.ndarray": _Call(_empty_array),
    "numpy.dtype": _Call(_Type),
    "numpy.core.multiarray._reconstruct": _Call(_empty_array),
    "numpy.core.multiarray.scalar": _Call(_number),
    "numpy.core.numeric._frombuffer": _Call(_array_of_buffer),
    "_codecs.encode": _Call(_bytes_of_text),
    "collections.OrderedDict": _Call(OrderedDict),
}
"""What a file may name, and what stands in for it."""
