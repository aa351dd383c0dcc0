"""Formats an error as one message that says what to change."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dmeta.cli.settings.choices import REGISTRIES, choice_of, choices_of
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.settings.schema import GROUPS, names_of
from dmeta.formatting import a_few
from dmeta.quoting import as_override, as_text, shell_word
from dmeta.registry import nearest
from dmeta.training.moved_keys import MOVED

_NO_NAME = "Config group override"
"""What Hydra says, as a ValueError of its own, of a group that is set to a number, say."""

_MOST_CHOICES = 32
"""Combinations of a sweep's choices that are looked at, for a message."""


def format_error(error: Exception, verb: str, overrides: Sequence[str]) -> tuple[str, int]:
    """Message and exit code of an error: 2 for what the user gave, 1 for what happened."""
    if _is_hydras(error):
        return explain(error, verb, [as_text(override) for override in overrides]), 2
    if isinstance(error, ValueError):
        return "; ".join([str(error), *getattr(error, "__notes__", ())]), 2
    return f"{type(error).__name__}: {error}", 1


@contextlib.contextmanager
def explained(verb: str, overrides: Sequence[str]) -> Iterator[None]:
    """Raise errors of composing the settings as a Python caller reads them.

    Args:
        verb: whose settings are composed.
        overrides: of the caller.

    Raises:
        ValueError: the message of the command line, for an error of Hydra's.
    """
    try:
        yield
    except Exception as error:
        if not _is_hydras(error):
            raise
        raise ValueError(explain(error, verb, [as_text(each) for each in overrides])) from None


def _is_hydras(error: Exception) -> bool:
    """Whether it is one of composing the settings, in Hydra's words."""
    return isinstance(error, HydraException | OmegaConfBaseException) or _NO_NAME in str(error)


def explain(error: BaseException, verb: str, overrides: Sequence[str]) -> str:
    """One message for an error of composing the settings; Hydra's own hints made specific."""
    text = str(error).strip()
    if nameless := [o for o in overrides if o.lstrip("+~").startswith("=")]:
        return f"an override must be key=value, got {nameless[0]!r}; write its key"
    if "override_grammar" in text:
        return _misspelt(text, overrides)
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Could not delete from config. '([^']+)' does not exist", text
    ):
        return unknown_key(match[1].removeprefix("+"), verb, overrides)
    if match := re.search(r"Could not (?:find|load) '([^']+)/([^'/]*)'", text):
        group, name = match[1], match[2]
        if names := names_of(group):
            return f"{group} must be one of {', '.join(names)}, got '{name}'{nearest(name, names)}"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} must be given, got nothing; add {match[1]}=..."
    if match := re.search(
        r"Could not override '?([^'\n]+)'?\.\nNo match in the defaults list", text
    ):
        return f"unknown group '{match[1]}'{nearest(match[1], list(GROUPS))}"
    if _NO_NAME in text:
        return _unnamed(text, overrides)
    # What is said after a blank line is Hydra's search path, or a hint to its own variables.
    return text.split("\n\n")[0].replace("\n    object_type=dict", "")


def unknown_key(key: str, verb: str, overrides: Sequence[str]) -> str:
    """For a key that is in no config: the nearest one of its group, and what the group has.

    In a sweep over choices (``algorithm=protonet,maml``) some may have it: those that lack it then.
    """
    if key in MOVED:
        return f"{key} is now called {MOVED[key]}; rename it"
    swept = [(chosen, _known_keys(verb, chosen)) for chosen in _swept_choices(overrides)]
    lacking = [chosen for chosen, known in swept if key not in known]
    if 0 < len(lacking) < len(swept):
        having = [chosen for chosen, known in swept if key in known]
        return (
            f"{key} must be a key of everything that is swept over, got {_others(lacking, having)} "
            f"without it ({_others(having, lacking)} has it); sweep over those apart"
        )
    known = swept[0][1] if swept else _known_keys(verb, overrides)
    group, _, name = key.rpartition(".")
    if (root := key.partition(".")[0]) in GROUPS and not _under(root, known):
        return (
            f"dmeta {verb.replace('_', ' ')} takes no {root}.* key, got '{key}'; remove it (there "
            f"are {', '.join(_at_the_top(known))})"
        )
    others = [other for other in known if other != key]
    siblings = {o.rpartition(".")[2]: o for o in others if o.rpartition(".")[0] == group}
    elsewhere = [other for other in others if group and other.rpartition(".")[2] == name]
    if near := nearest(name, list(siblings)):
        prefix = f"{group}." if group else ""
        near = near.replace("'", f"'{prefix}", 1)
    elif elsewhere:
        near = f" (did you mean '{elsewhere[0]}'?)"
    elif not siblings:
        near = nearest(key, [other for other in others if other != group])
    owners = [f"{group}={each}" for each in choices_of(group) if _has(group, each, key)]
    if owners:
        near = f", which is a key of {a_few(owners)}"
    has = f"; {group} has {', '.join(siblings)}" if group and siblings else ""
    return f"unknown key '{key}'{near}{has}"


def _under(group: str, known: Sequence[str]) -> bool:
    """Whether there are keys in a group."""
    return any(each.startswith(f"{group}.") for each in known)


def _at_the_top(known: Sequence[str]) -> list[str]:
    """Keys that are in no group, then the groups that have keys."""
    heads = dict.fromkeys(key.partition(".")[0] for key in known)
    groups = [head for head in heads if _under(head, known)]
    own = [head for head in heads if head not in groups and head not in GROUPS]
    return [*own, *(f"{group}.*" for group in groups)]


def _has(group: str, choice: str, key: str) -> bool:
    """Whether a choice of dmeta's own has a key."""
    is_own = group not in REGISTRIES or choice in REGISTRIES[group].builtin
    return is_own and any(each.name == key for each in choice_of(group, choice).options)


def _swept_choices(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The choices of groups that a sweep would try, each with the others of one value; or none."""
    columns = []
    for override in overrides:
        group, _, value = override.partition("=")
        names = value.removeprefix("choice(").removesuffix(")").split(",")
        if names and set(names) <= set(names_of(group)):
            columns.append([f"{group}={name}" for name in names])
    if all(len(column) == 1 for column in columns):
        return []
    return list(itertools.islice(itertools.product(*columns), _MOST_CHOICES))


def _others(some: Sequence[Sequence[str]], rest: Sequence[Sequence[str]]) -> str:
    """The choices that only some of the combinations make."""
    elsewhere = {choice for chosen in rest for choice in chosen}
    own = [choice for chosen in some for choice in chosen if choice not in elsewhere]
    return ", ".join(dict.fromkeys(own)) or " ".join(some[0])


def _misspelt(text: str, overrides: Sequence[str]) -> str:
    """For what Hydra's grammar does not take: which override it is, and how to write it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException:
            key, equals, value = override.partition("=")
            remedy = "write key=value"
            if equals:
                remedy = f"put the value in quotes: {shell_word(as_override(key, value))}"
            # Of Hydra's lines the first that says more than the override itself.
            reason = text.removeprefix(f"Error parsing override '{override}'").strip()
            reason = reason.split("\n")[0]
            why = "" if override in reason else f" ({reason})"
            return (
                f"an override must be key=value by Hydra's rules, got {override!r}{why}; {remedy}"
            )
    return text


def _unnamed(text: str, overrides: Sequence[str]) -> str:
    """For a group that is set to something that is no name."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        names = names_of(key)
        if names and value not in names:
            return f"{key} must be one of {', '.join(names)}, got {value!r}; choose one"
    return text


def _known_keys(verb: str, overrides: Sequence[str]) -> list[str]:
    """Every key that exists under the groups that the overrides choose."""
    choices = [o for o in overrides if re.fullmatch(r"[a-z_]+=[\w-]+", o)]
    settings: dict[str, Any] = {}
    for attempt in (choices, []):
        try:
            settings = compose(verb, attempt, complete=False)
            break
        except Exception:  # a wrong choice among them: do without
            continue
    return [*GROUPS, *_flattened(settings)]


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
