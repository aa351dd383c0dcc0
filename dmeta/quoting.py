"""How ``key=value`` is written and read: quoted values, and commands that can be pasted.

The rule for keys whose value is a text (`TEXT_KEYS`): what stands after ``=`` is the text itself,
whatever characters are in it. Only a pair of quotes around all of it is taken off, as Hydra does
(``run_dir="null"`` is a folder called null), and ``${...}`` is an interpolation. All other values
follow Hydra's grammar.
"""

from __future__ import annotations

import numbers
import re
import shlex
from collections.abc import Mapping
from typing import Any

TEXT_KEYS = (
    "run_dir",
    "out",
    "root",
    "bench.out",
    "task.root",
    "task.file",
    "model.init_from",
    "checkpoint.location",
    "runtime.address",
    "submit.address",
    "submit.image",
)
"""Keys of all verbs whose value is a path, an address or another text, if it is not null."""

MAPPING_KEYS = ("eval.task",)
"""Keys whose value may be a mapping, of names that the user chooses."""

# As Hydra has it: a backslash escapes a quote, and backslashes before a quote are doubled.
_IN_QUOTES = re.compile(r"""(["'])((?:\\.|(?!\1)[^\\])*)\1""", re.DOTALL)


def quoted(text: str) -> str:
    """A text in Hydra's grammar, which gives back exactly this text."""
    return _in_quotes(without_interpolations(text))


def without_interpolations(text: str) -> str:
    """A text as OmegaConf's, which gives back exactly this text: its ``${`` are escaped."""
    # A backslash escapes an interpolation, and those before one are doubled.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def unquoted(value: str) -> str | None:
    """What is within the quotes around a value; None: there are none around all of it."""
    found = _IN_QUOTES.fullmatch(value.strip())
    if found is None:
        return None
    quote, content = found.groups()
    return re.sub(
        rf"(\\+)({quote}|\Z)", lambda each: each[1][: len(each[1]) // 2] + each[2], content
    )


def as_override(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar, for a Python value: composed, it is that value again."""
    return f"{key}={_literal(value)}"


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """Overrides that give keys these values; a mapping's own keys are those of a group.

    That of a key in `MAPPING_KEYS` is the value itself.
    """
    found: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value and key not in MAPPING_KEYS:
            found += overrides_of({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            found.append(as_override(key, value))
    return found


def as_text(override: str) -> str:
    """An override of a key in `TEXT_KEYS` in Hydra's grammar; others as they are."""
    key, equals, value = override.partition("=")
    if not equals or key.lstrip("+") not in TEXT_KEYS:
        return override
    if is_null(value) or unquoted(value) is not None:
        return override
    return f"{key}={_in_quotes(value)}"


def is_null(value: str) -> bool:
    """Whether a value on the command line is no value."""
    return value.strip().lower() == "null"


def override_word(key: str, value: object) -> str:
    """A word of a command that is shown: pasted into a shell, it is this key with this text."""
    text = str(value)
    plain = "${" not in text and unquoted(text) is None and not is_null(text)
    word = f"{key}={text}" if plain and key in TEXT_KEYS else as_override(key, text)
    return shell_word(word)


def shell_word(word: str) -> str:
    """A word quoted for a shell; one with control characters for bash, as nothing else can be."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_bash_character, word)) + "'"


def _bash_character(character: str) -> str:
    """As it stands within ``$'...'``."""
    code = ord(character)
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\U{code:08x}"


def printable(text: str) -> str:
    """A line of text as a terminal may be given it, wherever it is from.

    Control characters (escape sequences, ends of lines), and those that turn the direction of
    writing, are shown as in Python's literals.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _in_quotes(text: str) -> str:
    doubled = re.sub(r'(\\*)("|\Z)', lambda each: 2 * each[1] + ('\\"' if each[2] else ""), text)
    return f'"{doubled}"'


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_literal(v) for v in value) + "]"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    text = str(value)
    return text if _is_word(text) else quoted(text)


def _is_word(text: str) -> bool:
    """Whether a text is the same without quotes, and is no number and no word of the grammar."""
    return bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text)) and text.lower() not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    )
