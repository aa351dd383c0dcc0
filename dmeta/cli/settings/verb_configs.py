"""The settings of each verb, and the choices that it starts with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmeta.cli.settings.choices import Config, options_named, prefixed, training_options
from dmeta.cli.verbs import DATA_CHECK
from dmeta.declared import Option

Defaults = Sequence[str | Mapping[str, str | None]]
"""As in a defaults list of Hydra: ``_self_``, another config, or group -> choice."""

_RUN_GROUPS = {
    "outer": "training.outer.options:OuterOptions",
    "compute": "runtime.options:ComputeOptions",
    "eval": "training.config:EvalOptions",
    "checkpoint": "training.config:CheckpointOptions",
}
_CHOSEN = ("algorithm", "gradient", "task", "model", "runtime")

_TRUST_RUN = Option(
    "trust",
    False,
    "contact the addresses in the run's own settings. Without it they are shown and refused.",
    lambda: bool,
)
_TRUST_FILES = Option(
    "trust",
    False,
    "use addresses and interpolations (``${oc.env:...}``) that come from files: of the run that is "
    "resumed, of experiment=FILE.yaml. Without it they are shown and refused. In a file this key "
    "has no effect.",
    lambda: bool,
)

_SHEET = Option(
    "out",
    "tasks.png",
    "picture to write of a task of each split, if they are of images.",
    lambda: str,
)


@dataclass(frozen=True)
class VerbConfig:
    """What is composed for a verb.

    Attributes:
        defaults: the defaults list.
        config: its own settings.
    """

    defaults: Defaults
    config: Config


def verb_config(verb: str) -> VerbConfig | None:
    """What is composed for a verb; None if it has no settings."""
    if verb == "train":
        return VerbConfig(
            [
                "_self_",
                {"model": "mlp"},
                {"gradient": "exact"},
                {"outer": "adam"},
                {"runtime": "ray"},
                {"algorithm": "maml"},
                {"task": "sinusoid"},
                {"experiment": None},
            ],
            Config(_run_options()),
        )
    if verb == "tune":
        search = prefixed("search", options_named("search.options:SearchOptions"))
        # The classical comparison would only cost time; many small trials at once are done sooner
        # than one after the other on all CPUs; a plan is not chosen again for every trial.
        values = {"joint_baseline": False, "runtime.num_workers": 1, "compute.plan": "vmap"}
        return VerbConfig(
            ["train", "_self_", {"search": "random"}, {"search/space": None}],
            Config(search, {"runtime": "local"}, values),
        )
    if verb == "bench":
        return VerbConfig(["train", {"bench": "gradients"}, "_self_"], Config())
    if verb == DATA_CHECK:
        return VerbConfig(["train", "_self_"], Config((_SHEET,)))
    if verb == "evaluate":
        return VerbConfig([{"runtime": "ray"}, "_self_"], Config(_evaluation_options()))
    if verb == "submit":
        options = options_named("cli.jobs.submission:SubmitOptions")
        return VerbConfig(["_self_"], Config(prefixed("submit", options)))
    targets = {"embed": "cli.embed:EmbedConfig", "replay": "cli.replay:ReplayConfig"}
    if verb in targets:
        return VerbConfig(["_self_"], Config((*options_named(targets[verb]), _TRUST_RUN)))
    return None


def _run_options() -> tuple[Option, ...]:
    """The keys of a run, except those of its choices."""
    found: list[Option] = []
    for each in options_named("training.config:RunConfig"):
        if each.name in _RUN_GROUPS:
            options = options_named(_RUN_GROUPS[each.name])
            own = [o for o in options if each.name != "outer" or o.name not in ("name", "options")]
            found += prefixed(each.name, own)
        elif each.name not in _CHOSEN:
            found.append(each)
    # Not with the task's own keys, which are composed last: a method sets them.
    return (*found, *prefixed("task", training_options()), _TRUST_FILES)


def _evaluation_options() -> tuple[Option, ...]:
    """The keys of `dmeta evaluate`, whose task is that of the run unless it is changed."""
    found: list[Option] = []
    for each in options_named("cli.evaluate:EvaluateConfig"):
        if each.name == "task":
            name = Option("name", None, "another task source; None: the run's own.", lambda: str)
            sizes = options_named("tasks.source:EpisodeSize")
            own = [dataclasses.replace(size, default=None) for size in sizes]
            found += prefixed("task", [name, *own])
        elif each.name != "runtime":
            found.append(each)
    return (*found, _TRUST_RUN)


def hydra_settings(verb: str) -> Mapping[str, Any]:
    """Hydra's own settings: what dmeta writes goes into run_dir only."""
    return {
        "run": {"dir": "."},
        "output_subdir": None,
        "sweep": {
            "dir": "multirun/${now:%Y-%m-%d_%H-%M-%S}",
            "subdir": "${hydra.job.num}",
        },
        "job": {"name": "dmeta", "chdir": False},
        "help": {"app_name": f"dmeta {verb}"},
    }
