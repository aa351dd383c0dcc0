"""The page of all settings: key, type, default, meaning.

Keys and defaults are those of the composed settings of each verb; types and meanings are those of
the dataclass or factory that reads them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.bilevel.estimators import ESTIMATORS
from dmeta.cli.hydra_app import compose, config_dir
from dmeta.models import MODELS
from dmeta.registry import Registry
from dmeta.search.options import SearchOptions
from dmeta.tasks import TASKS
from dmeta.tasks.source import EpisodeSize
from dmeta.training.config import OuterOptions, RunConfig
from reference_pages.text import cell, documented, linked_papers, table, type_text, value_text
from reference_pages.text import yaml_comments as comments_of

CHOSEN = {"algorithm": ALGORITHMS, "model": MODELS, "task": TASKS, "gradient": ESTIMATORS}
"""Groups whose keys depend on the name that is chosen."""

VERBS = ("evaluate", "embed", "replay", "submit")
"""Verbs with settings of their own besides those of a run."""

_BENCHES = ("gradients", "plans", "profile", "scale")


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
    composed = settings_of("train", "task=glyphs")
    groups: dict[str, list[Setting]] = {"": []}
    hints = typing.get_type_hints(RunConfig)
    comments = comments_of(config_dir() / "train.yaml")
    meanings = documented(RunConfig)
    for name, hint in hints.items():
        if name in CHOSEN:
            continue
        if dataclasses.is_dataclass(hint):
            groups[name] = _of_dataclass(hint, name, composed[name])
        else:
            meaning = meanings.get(name) or comments.get(name, "")
            groups[""].append(_setting(name, hint, composed[name], meaning))
    extra = verb_settings("train")  # keys of the command that are no part of a run's settings
    groups[""] += [each for each in extra if each.key.partition(".")[0] not in hints]
    groups["search"] = _of_dataclass(SearchOptions, "search", settings_of("tune")["search"])
    groups["algorithm"] = _of_dataclass(InnerLoop, "algorithm", settings_of("train")["algorithm"])
    return groups


def chosen_settings(group: str) -> dict[str, list[Setting]]:
    """Name in a registry -> the settings of its own, beyond what all of its group have."""
    registry: Registry[Any] = CHOSEN[group]
    shared = {f.name for f in dataclasses.fields(InnerLoop)} if group == "algorithm" else set()
    if group == "task":
        shared = {f.name for f in dataclasses.fields(EpisodeSize)}
        shared |= {f"train_{name}" for name in shared}
    found = {}
    for name, entry in registry.items():
        values = settings_of("train", f"{group}={name}")[group]
        own = {k: v for k, v in values.items() if k not in shared | {"name"}}
        found[name] = _of_factory(entry.make, group, name, own)
    return found


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
    for bench in _BENCHES:
        parts += [f"## `dmeta bench {bench}`", _table(bench_settings(bench))]
    return "\n\n".join(part for part in parts if part) + "\n"


def optimizer_settings() -> dict[str, dict[str, Any]]:
    """Optimiser -> its own arguments with their defaults."""
    shared = {each.name for each in dataclasses.fields(OuterOptions)}
    names = sorted(path.stem for path in (config_dir() / "outer").glob("*.yaml"))
    composed = {name: settings_of("train", f"outer={name}")["outer"] for name in names}
    return {
        name: {key: value for key, value in values.items() if key not in shared}
        for name, values in composed.items()
    }


def verb_settings(verb: str) -> list[Setting]:
    """The settings of a verb that a run has not."""
    import yaml

    path = config_dir() / f"{verb}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = {k: v for k, v in values.items() if k not in ("defaults", "hydra")}
    return _of_yaml(own, comments_of(path), "")


def bench_settings(name: str) -> list[Setting]:
    """The settings of a bench that a run has not."""
    import yaml

    path = config_dir() / "bench" / f"{name}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values.pop("name")
    return _of_yaml(values, comments_of(path), "bench.")


def _of_yaml(
    values: Mapping[str, Any], comments: Mapping[str, str], prefix: str, path: str = ""
) -> list[Setting]:
    found = []
    for key, value in values.items():
        full = f"{path}{key}"
        if isinstance(value, Mapping):
            found += _of_yaml(value, comments, prefix, f"{full}.")
            continue
        default = "must be given" if value == "???" else value_text(value)
        kind = "" if value in (None, "???") else type_text(type(value))
        found.append(Setting(f"{prefix}{full}", kind, default, comments.get(full, "")))
    return found


def _of_dataclass(cls: Any, prefix: str, values: Mapping[str, Any]) -> list[Setting]:
    hints, meanings = typing.get_type_hints(cls), documented(cls)
    found = []
    for each in dataclasses.fields(cls):
        value = values.get(each.name, each.default)
        if value is not dataclasses.MISSING:  # `options` hold what the chosen name adds
            meaning = meanings.get(each.name, "")
            found.append(_setting(f"{prefix}.{each.name}", hints[each.name], value, meaning))
    return found


def _of_factory(make: Any, group: str, name: str, values: Mapping[str, Any]) -> list[Setting]:
    function = getattr(make, "func", make)
    meanings, hints = documented(function), _hints(function)
    path = config_dir() / group / f"{name}.yaml"
    comments = comments_of(path) if path.exists() else {}
    found = []
    for key, value in values.items():
        comment = comments.get(f"{group}.{key}") or comments.get(key, "")
        meaning = comment or meanings.get(key, "")
        found.append(_setting(f"{group}.{key}", hints.get(key, type(value)), value, meaning))
    return found


def _hints(function: Any) -> dict[str, Any]:
    target = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(target)
    except NameError:
        return {}


def _setting(key: str, hint: Any, value: Any, meaning: str) -> Setting:
    return Setting(key, type_text(hint), value_text(value), meaning)


def _table(settings: Iterable[Setting]) -> str:
    return table(("key", "type", "default", "meaning"), (s.row() for s in settings))


def _sizes() -> str:
    meanings = documented(EpisodeSize)
    rows = [(f"`task.{key}`", "at evaluation", cell(text)) for key, text in meanings.items()]
    rows += [
        (f"`task.train_{key}`", "in training; `null`: as at evaluation", cell(text))
        for key, text in meanings.items()
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
