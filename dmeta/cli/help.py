"""`dmeta VERB --help`: what it does, its groups with their choices, and every key with its meaning.

Values are those of the settings that are typed: `dmeta train algorithm=leo --help` shows the keys
of LEO, `dmeta train experiment=NAME --help` those of a preset.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dmeta.cli.settings.schema import (
    ListedSettings,
    flattened,
    names_of,
    settings_of,
    words_of_type,
    written,
)
from dmeta.cli.verbs import DATA_CHECK
from dmeta.declared import REQUIRED, Option

HELP_FLAGS = ("-h", "--help")

_WIDTH = 100
_OBVIOUS = ("true", "false", "null")

_CHOOSE = """Choose from each group with group=name (algorithm=fomaml), change any key with
key=value (algorithm.inner_lr=0.1). -m sweeps over comma-separated values, --cfg job shows the
settings as YAML."""

_SEARCH = """Give a key several values to search it:
  outer.lr=0.001,0.003                               one of them
  algorithm=maml,fomaml,anil                         whole choices, too
  'algorithm.inner_lr=tag(log,interval(0.01,1))'     a number; tag(log,...): by its logarithm
  'algorithm.inner_steps=range(1,8)'                 1 to 7
or choose a space with search/space=... . search=... says how to search. runtime.* applies to each
trial."""

_ABOUT: Mapping[str, str] = {
    "train": f"""dmeta train: meta-train a few-shot learner.

{_CHOOSE}""",
    "tune": f"""dmeta tune: search learning rates, step counts, or any other setting of dmeta train.

{_SEARCH}""",
    "evaluate": "dmeta evaluate run_dir=...: evaluate a trained run on tasks of unseen classes.",
    "embed": """dmeta embed run_dir=...: compute feature vectors of a data set with the trained
network of a run, and write them to a file for `dmeta train task=features task.file=...`.""",
    DATA_CHECK: f"""dmeta data check task=...: read the data of a task source; say which classes and
how many examples each split has, which examples are there twice, and whether tasks of the wanted
size can be drawn; and write a picture of a few tasks.

{_CHOOSE}""",
    "replay": """dmeta replay run_dir=... step=...: restore a run to one of its outer steps and
compute a block again, task by task, to find the task that gives a number that is not finite, or a
large one.""",
    "bench": f"""dmeta bench gradients: seconds and memory of every meta-gradient for a model, a
task and a method, and how far it is from the exact one.
dmeta bench accuracy: every method, trained for the same seconds on the same task.
dmeta bench methods: seconds and memory of a task of every method, against those of MAML.
dmeta bench plans: every execution plan (compute.plan) on the same tasks: tasks per second, memory,
seconds to compile, and whether the meta-gradient is the same.
dmeta bench profile: where the time of an outer step goes, with the run's own workers.
dmeta bench scale: steps per second of the parameter server, for any number of workers.

{_CHOOSE}""",
}


def help_text(verb: str, words: Sequence[str], composed: Mapping[str, Any]) -> str:
    """The help of a verb with settings.

    Args:
        verb: the verb.
        words: what else is typed.
        composed: the settings that come of it.
    """
    chosen = [
        f"{group}={value['name']}"
        for group, value in composed.items()
        if isinstance(value, Mapping) and isinstance(value.get("name"), str)
    ]
    found = settings_of(verb, [*words, *chosen])
    values = [pair for pair in flattened(composed, "") if not pair[0].endswith(".name")]
    keys = [replace(found.keys.get(key, Option(key, "")), default=value) for key, value in values]
    parts = [_ABOUT[verb]]
    if found.groups:
        parts.append("\n".join(["Groups", *_groups(found)]))
    parts.append("\n".join(["Settings", *commented_yaml(keys)]))
    return "\n\n".join(parts) + "\n"


def _groups(found: ListedSettings) -> Iterator[str]:
    for group, chosen in found.groups.items():
        text = f"  {group}={chosen}: one of {', '.join(names_of(group))}"
        yield from textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def commented_yaml(options: Iterable[Option]) -> Iterator[str]:
    """Keys with their defaults as lines of YAML, each below a comment with its meaning.

    Args:
        options: with full names, in order; those of one group need not be next to each other.
    """
    tree: dict[str, list[Option]] = {"": []}
    for each in options:
        tree.setdefault(each.name.rpartition(".")[0], []).append(each)
    for group, members in tree.items():
        depth = 0
        if group:
            *_, last = group.split(".")
            depth = group.count(".") + 1
            yield f"{'  ' * (depth - 1)}{last}:"
        for option in members:
            yield from _commented(option, "  " * depth)


def _commented(option: Option, indent: str) -> Iterator[str]:
    comment = plain_help(option.help)
    words = [word for word in words_of_type(option.type_of()) if word not in _OBVIOUS]
    if any(not re.search(rf"\b{re.escape(word)}\b", comment) for word in words):
        comment = f"{comment.rstrip('.')} ({', '.join(words)})."
    if comment:
        prefix = f"{indent}# "
        yield from textwrap.wrap(
            comment, _WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_on_hyphens=False
        )
    value = "" if option.default == REQUIRED else f" {written(option.default)}"
    must = "  # must be given" if option.default == REQUIRED else ""
    yield f"{indent}{option.name.rpartition('.')[2]}:{value}{must}"


def plain_help(text: str) -> str:
    """The text of a docstring as settings are written: ``null`` for None, no markup."""
    text = re.sub(r"\bNone\b", "null", text)
    text = re.sub(r"\b(True|False)\b", lambda match: match[1].lower(), text)
    text = text if text.startswith("`") else text[:1].upper() + text[1:]
    return text.replace("`", "")
