"""Reads JSON that anyone may have written, checked before `dmeta status` uses it.

A shape is ``COUNT``, ``POSITIVE``, ``NUMBER``, ``ANY_NUMBER`` (NaN and infinity, too), ``TEXT`` or
None; a mapping of keys to shapes (those that end in ``?`` may be missing, others may be there), or
of ``ANY_KEY`` to the shape of all values; a list of one shape, for lists; or a tuple of shapes, one
of which it must have.

Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from dmeta.runs.json_lines import LARGEST

Shape: TypeAlias = "str | Mapping[str, Shape] | list[Shape] | tuple[Shape, ...] | None"

COUNT, POSITIVE = "a whole number >= 0", "a whole number >= 1"
NUMBER, ANY_NUMBER, TEXT = "a number", "any number", "a text"
ANY_KEY = "*"

SETTINGS: Shape = {
    "settings?": {"steps?": POSITIVE, "checkpoint?": {"location?": (TEXT, None)}},
    "shapes?": {"kind?": TEXT},
    "metrics?": [{"name": TEXT, "unit?": TEXT}],
}
"""config.json of a run."""

_TEST: Shape = {
    "split": TEXT,
    "num_tasks": COUNT,
    "transductive": {"mean": [ANY_NUMBER], "ci95": [ANY_NUMBER]},
}

RUN_RESULTS: Shape = {
    "training": {"steps": COUNT},
    "task?": TEXT,
    "test?": _TEST,
    "other_tasks?": {ANY_KEY: {"test": _TEST}},
}
"""results.json of a run."""

SEARCH_RECORD: Shape = {
    "search": {"num_trials": (POSITIVE, None)},
    "mode?": TEXT,
    "host?": TEXT,
}
"""search.json."""

_COUNTS = ("retried_blocks", "copied_blocks", "rejected")

TRAIN_ROW: Shape = {
    "step": COUNT,
    "seconds": NUMBER,
    "loss?": (ANY_NUMBER, None),
    "tasks_per_second?": (NUMBER, None),
    **{f"{name}?": COUNT for name in _COUNTS},
}

VAL_ROW: dict[str, Shape] = {
    "step": COUNT,
    "ci95": ANY_NUMBER,
    "num_tasks": COUNT,
    "best_step": (COUNT, None),
}
"""Besides the primary metric, which is `ANY_NUMBER`."""

BEGUN: Shape = {
    "run?": TEXT,
    "time": TEXT,
    "host": TEXT,
    "pid": COUNT,
    "hardware": {"cpu": TEXT, "cpu_count": (COUNT, None), "gpus": [TEXT]},
    "runtime": {"name": TEXT, "device": TEXT, "num_workers": COUNT},
}
"""The line of log.jsonl with which a session begins."""

ENDED: Shape = {"event": TEXT, "message?": TEXT}
"""Any other of its lines that has an event."""


def read_record(path: Path, shape: Shape) -> dict[str, Any] | None:
    """The object in a file of JSON; None: there is no such file.

    Raises:
        ValueError: it holds something else; the message says what, and what to do.
    """
    try:
        content = json.loads(path.read_bytes())
        wrong = misfit(content, shape)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(
            f"{path} must be a file that can be read, got {error.strerror or 'an error'}; make it "
            "readable, or restore it"
        ) from None
    except RecursionError:
        wrong = "brackets within brackets without an end"
    except UnicodeDecodeError:
        wrong = "bytes that are no text in UTF-8"
    except ValueError as error:
        wrong = f"no JSON ({str(error)[:100]})"
    if wrong is None and isinstance(content, dict):
        return content
    raise ValueError(
        f"{path} must be an object in JSON as dmeta writes it, got {wrong}; it was altered or "
        "truncated: restore it"
    )


def misfit(value: Any, shape: Shape, name: str = "") -> str | None:
    """What is wrong with a value, in words; None: nothing."""
    if isinstance(shape, Mapping):
        return _misfit_of_object(value, shape, name)
    if isinstance(shape, tuple):
        wrongs = [misfit(value, each, name) for each in shape]
        return None if None in wrongs else wrongs[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _said(name, "a list", value)
        found = (misfit(each, shape[0], f"{name}[]") for each in value)
        return next((wrong for wrong in found if wrong is not None), None)
    fits = value is None if shape is None else _fits(value, shape)
    return None if fits else _said(name, shape or "null", value)


def _misfit_of_object(value: Any, shape: Mapping[str, Shape], name: str) -> str | None:
    if not isinstance(value, dict):
        return _said(name, "an object", value)
    if ANY_KEY in shape:
        found = (misfit(each, shape[ANY_KEY], f"{name}.{key}") for key, each in value.items())
        return next((wrong for wrong in found if wrong is not None), None)
    for key, inner in shape.items():
        plain = key.removesuffix("?")
        inside = f"{name}.{plain}" if name else plain
        if plain in value:
            if (wrong := misfit(value[plain], inner, inside)) is not None:
                return wrong
        elif plain == key:
            return f"nothing for {inside}"
    return None


def _said(name: str, wanted: str, value: Any) -> str:
    shown = json.dumps(value)[:80] if not isinstance(value, list | dict) else type(value).__name__
    shown = {"list": "a list", "dict": "an object"}.get(shown, shown)
    return f"{shown} for {name}, which is {wanted}" if name else shown


def _fits(value: Any, shape: str) -> bool:
    if shape == TEXT:
        return isinstance(value, str)
    if (type(value) is int and abs(value) > LARGEST) or type(value) not in (int, float):
        return False
    if shape in (COUNT, POSITIVE):
        return type(value) is int and value >= (shape == POSITIVE)
    return shape == ANY_NUMBER or (math.isfinite(value) and abs(value) <= LARGEST)
