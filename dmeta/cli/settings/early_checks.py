"""What can be said against settings before torch and Ray are imported, which takes seconds.

The verbs check the same again, and more: these checks only make the answer quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dmeta.cli.settings.choices import REGISTRIES, choice_of, options_named, options_of
from dmeta.cli.settings.verb_configs import verb_config
from dmeta.metrics.choice import check_registered
from dmeta.options import NamedOptions, check_declared, checked_options, named_options
from dmeta.registry import LazyEntry, check_names
from dmeta.tasks import TASKS
from dmeta.training.config import RunConfig, run_config
from dmeta.training.init_options import init_options, without_init
from dmeta.training.task_options import OTHER_TASKS, RUN_KEYS, other_tasks
from dmeta.typed_values import typed

if TYPE_CHECKING:
    from dmeta.search.space import Dimension


def check_early(
    verb: str,
    settings: Mapping[str, Any],
    space: Mapping[str, Dimension] | None = None,
    arguments: Sequence[str] = (),
) -> None:
    """Check names, types and ranges of the settings of `dmeta train` and `dmeta tune`.

    Not those of a run or search that is resumed, which are in its folder; of other verbs, types and
    ranges only.

    Args:
        verb: the verb.
        settings: composed.
        space: of `dmeta tune`, what is searched.
        arguments: of `dmeta tune`, its command line.

    Raises:
        ValueError: whatever is wrong, with the key to change.
    """
    if verb in ("evaluate", "embed", "replay"):
        _check_own(verb, settings)
    if verb not in ("train", "tune") or settings.get("resume"):
        return
    if verb == "train":
        _check_options(run_config(settings))
        return
    from dmeta.cli.settings.planned_search import fixed_of, planned_search
    from dmeta.cli.settings.presets import own_presets

    space = space or {}
    fixed = fixed_of(arguments, space)
    _check_options(planned_search(settings, fixed, space, own_presets(arguments)).config)


def _check_own(verb: str, settings: Mapping[str, Any]) -> None:
    """Check the types and ranges of a verb's own keys."""
    own = verb_config(verb)
    assert own is not None
    for option in own.config.options:
        if "." not in option.name and option.name in settings:
            typed(settings[option.name], option.type_of(), option.name)


def check_other_task(key: str, settings: Mapping[str, Any]) -> None:
    """Check names and types of the settings of a task source in ``eval.task``.

    Args:
        key: of it.
        settings: with the ``name`` of the source; values that are null are as usual.
    """
    given = {k: v for k, v in settings.items() if v is not None}
    name = given["name"]
    if name not in TASKS.builtin:
        check_names(TASKS, [name], f"{key}.name")
    entry = TASKS.builtin.get(name) or TASKS[name]
    declared = {each.name: each for each in options_named("tasks.source:EpisodeSize")}
    declared |= {each.name: each for each in options_of(entry) if each.name not in RUN_KEYS}
    check_declared(list(declared.values()), named_options(given, key), key)


def _check_options(config: RunConfig) -> None:
    """Check the options of the chosen parts; a plug-in is imported for it, nothing else."""
    choices = {
        "algorithm": config.algorithm,
        "model": without_init(config.model),
        "task": config.task.source,
        "gradient": config.gradient,
    }
    for group, choice in choices.items():
        entry = REGISTRIES[group].builtin.get(choice.name) or REGISTRIES[group][choice.name]
        if isinstance(entry, LazyEntry):
            check_declared(options_of(entry), choice, group)
        else:
            checked_options(entry.make, choice, group)
    init_options(config.model)
    check_registered(config.eval.metrics or (), "eval.metrics")
    for name, settings in other_tasks(config.eval.task).items():
        check_other_task(f"{OTHER_TASKS}.{name}", settings)
    own = [
        each for each in choice_of("outer", config.outer.name).options if each.name != "outer.lr"
    ]
    declared = [replace(each, name=each.name.removeprefix("outer.")) for each in own]
    check_declared(declared, NamedOptions(config.outer.name, config.outer.options), "outer")
