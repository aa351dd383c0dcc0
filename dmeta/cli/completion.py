"""Shell completion: `dmeta completion SHELL` prints a script that asks `dmeta --complete LINE`.

The answer is needed while somebody types: this reads file names and YAML, and imports neither
torch nor Ray nor Hydra.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmeta.cli.completion_scripts import SCRIPTS
from dmeta.cli.settings.schema import (
    ListedSettings,
    choice_summary,
    names_of,
    settings_of,
    words_of_type,
    written,
)
from dmeta.cli.verbs import (
    BENCHES,
    CONFIGURED,
    DATA_CHECK,
    KINDS,
    PLAIN,
    QUERY,
    SHELLS,
    SUBMITS,
    VERBS,
)
from dmeta.registry import nearest

COMPLETION_USAGE = """usage: dmeta completion SHELL

Prints the completion script of a shell. To install it, add one line:
  bash   eval "$(dmeta completion bash)"       to ~/.bashrc
  zsh    eval "$(dmeta completion zsh)"        to ~/.zshrc, after compinit
  fish   dmeta completion fish | source        to ~/.config/fish/config.fish
"""

_INNER: Mapping[str, Mapping[str, str]] = {
    "bench": BENCHES,
    "submit": dict.fromkeys(SUBMITS, ""),
    "new": dict.fromkeys(KINDS, ""),
    "completion": dict.fromkeys(SHELLS, ""),
}
"""Verbs that are followed by a word of their own."""

_FLAGS = {
    "--help": "show what can be changed",
    "--cfg": "show the settings (--cfg job) instead of running",
    "--multirun": "run every combination of comma-separated values",
    "--config-dir": "folder of own presets",
    "--traceback": "show where an error came from",
}

_OWN_FLAGS = {
    "submit": {"--dry-run": "show what would be submitted"},
    "doctor": {"--json": "as JSON"},
    "new": {"--plugin": "write a package of its own", "--folder": "where to write"},
}


def completion_command(arguments: Sequence[str]) -> int:
    """The verb: print a shell's script; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(COMPLETION_USAGE)
        return 0 if arguments else 2
    if len(arguments) > 1 or arguments[0] not in SHELLS:
        got = " ".join(arguments)
        raise ValueError(
            f"dmeta completion takes {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, got {got!r}"
            f"{nearest(arguments[0], list(SHELLS))}; name one"
        )
    sys.stdout.write(SCRIPTS[arguments[0]].replace("@QUERY@", QUERY))
    return 0


def print_candidates(lines: Sequence[str]) -> None:
    """Answer a shell: one candidate a line, a tab, what it is.

    Args:
        lines: the command line up to the cursor, ``dmeta`` included.
    """
    try:
        found = candidates(words_of(" ".join(lines)))
    except Exception:  # a message would be printed into the line that is being typed
        return
    sys.stdout.write("".join(f"{text}\t{what}\n" for text, what in found.items()))


def words_of(line: str) -> list[str]:
    """The words after ``dmeta``; the last one is being typed, and may be empty."""
    words = line.split()
    if not words or line[-1].isspace():
        words.append("")
    programs = (i for i, word in enumerate(words[:-1]) if Path(word).name == "dmeta")
    return words[next(programs, 0) + 1 :] or [""]


def candidates(words: Sequence[str]) -> dict[str, str]:
    """What the last word can become -> what that is."""
    *before, typed = words
    return {text: what for text, what in _all(before, typed).items() if text.startswith(typed)}


def _all(before: Sequence[str], typed: str) -> Mapping[str, str]:
    if not before:
        return VERBS
    verb, rest = before[0], list(before[1:])
    if verb == "data" and rest[:1] == ["check"]:
        verb, rest = DATA_CHECK, rest[1:]
    if not rest and verb in _INNER:
        return _INNER[verb]
    if typed.startswith("-"):
        own = _OWN_FLAGS.get(verb, {})
        composes = verb in CONFIGURED or (verb == "submit" and rest[:1] != ["stop"])
        return {**own, **_FLAGS} if composes else own
    if verb in PLAIN:
        check = {"check": "what is in a data set"} if verb == "data" and not rest else {}
        return {**check, **_plain(PLAIN[verb])}
    if verb == "bench":
        return _settings(settings_of("bench", [f"bench={rest[0]}", *rest[1:]]), typed)
    if verb == "submit":
        of_job = _settings(settings_of("submit", []), typed)
        if rest[0] not in CONFIGURED:
            return of_job
        return {**_settings(settings_of(rest[0], rest[1:]), typed), **of_job}
    if verb in CONFIGURED:
        return _settings(settings_of(verb, rest), typed)
    return {}


def _plain(keys: Mapping[str, str]) -> dict[str, str]:
    """Of a verb that knows its keys: those that are switches with their value."""
    return {f"{key}={value if value == 'true' else ''}": "" for key, value in keys.items()}


def _settings(settings: ListedSettings, typed: str) -> dict[str, str]:
    """Groups and keys; once a key is typed, its values."""
    key, is_value, _ = typed.partition("=")
    if is_value:
        return {f"{key}={value}": what for value, what in _values(settings, key).items()}
    found = {f"{group}=": f"default {name}" for group, name in settings.groups.items()}
    path = typed.rpartition(".")[0]
    for name, option in settings.keys.items():
        group = name.rpartition(".")[0]
        if group == path:
            found[f"{name}="] = f"default {written(option.default)}"
        elif group.startswith(f"{path}." if path else ""):  # no deeper before its dot is typed
            inner = name.removeprefix(f"{path}.").partition(".")[0]
            found[f"{path}.{inner}." if path else f"{inner}."] = "settings"
    return found


def _values(settings: ListedSettings, key: str) -> dict[str, str]:
    """Choices of a group; of a key the words that its type names."""
    if key in settings.groups:
        return {name: choice_summary(key, name) for name in names_of(key)}
    option = settings.keys.get(key)
    return {} if option is None else dict.fromkeys(words_of_type(option.type_of()), "")
