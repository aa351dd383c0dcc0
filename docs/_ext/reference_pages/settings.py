"""The page of all settings: key, type, default, meaning.

All of it is that of the dataclass or factory that reads the key (`dmeta.declared`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dmeta.cli.settings.choices import REGISTRIES as CHOSEN
from dmeta.cli.settings.choices import choice_of, options_named, prefixed
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.settings.verb_configs import verb_config
from dmeta.cli.verbs import BENCHES
from dmeta.declared import REQUIRED, Option
from dmeta.training.outer.torch_optimizers import OPTIMIZERS
from reference_pages.text import cell, linked_papers, table, type_text, value_text

VERBS = ("evaluate", "embed", "replay", "submit")
"""Verbs with settings of their own besides those of a run."""


@dataclass(frozen=True)
class Setting:
    """One key.

    Attributes:
        key: the full dotted key.
        kind: its type, as Markdown.
        default: as Markdown.
        meaning: as Markdown.
    """

    key: str
    kind: str
    default: str
    meaning: str

    def row(self) -> tuple[str, ...]:
        """The cells of its row."""
        return f"`{self.key}`", self.kind, self.default, cell(self.meaning)


@functools.cache
def settings_of(verb: str, *overrides: str) -> Mapping[str, Any]:
    """The composed settings of a verb."""
    return compose(verb, overrides)


def run_settings() -> dict[str, list[Setting]]:
    """Group -> its settings, of a run; the empty group has those that are in none."""
    config = verb_config("train")
    assert config is not None
    groups = _grouped(config.config.options)
    groups["runtime"] = _settings(_own(choice_of("runtime", "ray").options))
    search = verb_config("tune")
    assert search is not None
    groups["search"] = _settings(search.config.options)
    inner = prefixed("algorithm", options_named("algorithms.inner_loop:InnerLoop"))
    groups["algorithm"] = _settings(inner)
    return groups


def chosen_settings(group: str) -> dict[str, list[Setting]]:
    """Name in a registry -> the settings of its own, beyond what all of its group have."""
    shared: set[str] = set()
    if group == "algorithm":
        shared = {each.name for each in options_named("algorithms.inner_loop:InnerLoop")}
    if group == "task":
        shared = {each.name for each in options_named("tasks.source:EpisodeSize")}
        batches = [each.name for each in options_named("tasks.source:BatchSize")]
        shared |= {f"train_{name}" for name in (*shared, *batches)}
    shared = {f"{group}.{name}" for name in shared}
    return {
        name: _settings(
            each for each in _own(choice_of(group, name).options) if each.name not in shared
        )
        for name in CHOSEN[group].builtin
    }


def settings_page() -> str:
    """The page."""
    groups = run_settings()
    titles = {
        "": ("A run", "Keys that belong to no group."),
        "algorithm": (
            "The inner loop",
            "Of every method that has an inner loop. The defaults shown are those of MAML; "
            "[each method](methods/index.md) has its own. Keys that a single method has are on its "
            "page.",
        ),
        "search": ("Searches", "Of `dmeta tune`. The defaults shown are those of `search=random`."),
    }
    rest = [name for name in groups if name not in titles]
    parts = [
        "# Settings",
        "Every key that can be set with `key=value`, on the command line and from Python. "
        "This page is generated from the code.",
    ]
    for name in ("", "algorithm", *rest, "search"):
        title, text = titles.get(name, (f"`{name}`", ""))
        parts += [f"## {title}", text, _table(groups[name])]
    parts += ["## Tasks", _sizes()]
    for group in ("task", "model", "gradient"):
        parts += [f"## Choices of `{group}`"]
        for name, own in chosen_settings(group).items():
            entry = CHOSEN[group][name]
            parts += [f"### `{group}={name}`", _described(entry.summary, entry.source)]
            parts += [_table(own)] if own else ["No settings of its own."]
    parts += ["## Choices of `outer`", _optimizers()]
    parts += [f"## `dmeta {verb}`\n\n{_table(verb_settings(verb))}" for verb in VERBS]
    for bench in BENCHES:
        parts += [f"## `dmeta bench {bench}`", _table(bench_settings(bench))]
    return "\n\n".join(part for part in parts if part) + "\n"


def optimizer_settings() -> dict[str, dict[str, Any]]:
    """Optimiser -> its own arguments with their defaults."""
    return {
        name: {
            each.name.removeprefix("outer."): each.default
            for each in _own(choice_of("outer", name).options)
            if each.name != "outer.lr"
        }
        for name in sorted(OPTIMIZERS)
    }


def verb_settings(verb: str) -> list[Setting]:
    """The settings of a verb that a run has not."""
    config = verb_config(verb)
    assert config is not None
    return _settings(config.config.options)


def bench_settings(name: str) -> list[Setting]:
    """The settings of a bench that a run has not."""
    return _settings(_own(choice_of("bench", name).options))


def _own(options: Iterable[Option]) -> list[Option]:
    """Without the name of the choice itself."""
    return [each for each in options if not re.fullmatch(r"\w+\.name", each.name)]


def _grouped(options: Iterable[Option]) -> dict[str, list[Setting]]:
    groups: dict[str, list[Setting]] = {}
    for each in options:
        groups.setdefault(each.name.rpartition(".")[0], []).append(_setting(each))
    return groups


def _settings(options: Iterable[Option]) -> list[Setting]:
    return [_setting(each) for each in options]


def _setting(option: Option) -> Setting:
    hint = option.type_of()
    kind = "" if hint is Any else type_text(hint)
    default = "must be given" if option.default == REQUIRED else value_text(option.default)
    return Setting(option.name, kind, default, option.help)


def _table(settings: Iterable[Setting]) -> str:
    return table(("key", "type", "default", "meaning"), (s.row() for s in settings))


def _sizes() -> str:
    sizes = options_named("tasks.source:EpisodeSize")
    rows = [(f"`task.{each.name}`", "at evaluation", cell(each.help)) for each in sizes]
    rows += [
        (f"`task.train_{each.name}`", "in training; `null`: as at evaluation", cell(each.help))
        for each in sizes
    ]
    rows += [
        (f"`task.train_{each.name}`", "in training on mini-batches", cell(each.help))
        for each in options_named("tasks.source:BatchSize")
    ]
    return "The size of a task, whatever its source.\n\n" + table(("key", "used", "meaning"), rows)


def _optimizers() -> str:
    rows = [
        (
            f"`outer={name}`",
            value_text(settings_of("train", f"outer={name}")["outer"]["lr"]),
            ", ".join(f"`outer.{key}={_written(value)}`" for key, value in own.items()),
        )
        for name, own in optimizer_settings().items()
    ]
    return (
        "Each is the optimiser of that name in "
        "[torch.optim](https://docs.pytorch.org/docs/stable/optim.html), which says what its "
        "arguments mean.\n\n" + table(("choice", "`outer.lr`", "its own keys and defaults"), rows)
    )


def _written(value: Any) -> str:
    return value_text(value).strip("`").replace(" ", "")


def _described(summary: str, source: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}. Source: {linked_papers(source)}."
