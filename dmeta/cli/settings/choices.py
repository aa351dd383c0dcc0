"""The choices of each group of settings (``algorithm=maml``), and what each of them sets.

A choice is read from what it names: the options of a factory (`dmeta.declared`), the other settings
of its registry entry, the arguments of torch's optimiser. A plug-in is imported for it, a part of
dmeta is not.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dmeta.algorithms import ALGORITHMS
from dmeta.bilevel import ESTIMATORS
from dmeta.cli.verbs import BENCHES
from dmeta.declared import PROVIDED, Option, declared_options, documented
from dmeta.models import MODELS
from dmeta.registry import Entry, LazyEntry, Registry, plugin_names
from dmeta.tasks import TASKS
from dmeta.training.outer.torch_optimizers import NOT_OPTIONS, OPTIMIZERS

REGISTRIES: Mapping[str, Registry[Any]] = {
    "algorithm": ALGORITHMS,
    "gradient": ESTIMATORS,
    "model": MODELS,
    "task": TASKS,
}
"""Groups whose choices are in a registry."""

RUNTIMES = ("local", "ray")

_WAYS = {"classification": 5, "regression": 1}
_SHAPE_OF_IMAGES = 3
DATA_ROOT = "${oc.env:DMETA_DATA,null}"
"""Default of a task's ``root``: the data root of the machine that composes the settings."""


@dataclass(frozen=True)
class Config:
    """Settings that are composed together: those of a verb, or of a choice of a group.

    Attributes:
        options: the keys, with their full names, in order.
        chosen: group -> the choice that comes with this one.
        values: full name -> value, for keys of other configs.
    """

    options: tuple[Option, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


def choices_of(group: str) -> list[str]:
    """Names of the choices of a group, those of plug-ins last; none if it has no such choices."""
    if group in REGISTRIES:
        return [*REGISTRIES[group].builtin, *plugin_names(group)]
    found: Mapping[str, Iterable[str]] = {
        "outer": OPTIMIZERS,
        "runtime": RUNTIMES,
        "bench": BENCHES,
    }
    return list(found.get(group, ()))


def choice_of(group: str, name: str) -> Config:
    """What a choice sets.

    Args:
        group: its group.
        name: one of `choices_of`.

    Raises:
        ValueError: it is a plug-in that cannot be imported.
    """
    if group in REGISTRIES:
        registry = REGISTRIES[group]
        return _of_entry(group, name, registry.builtin.get(name) or registry[name])
    if group == "outer":
        return _of_optimizer(name)
    if group == "runtime":
        return Config(prefixed("runtime", options_named("runtime.options:RuntimeOptions"), name))
    target = f"bench.{name}:{name.capitalize()}Options"
    return Config(prefixed("bench", options_named(target), name))


def options_named(target: str) -> tuple[Option, ...]:
    """The fields of one of dmeta's dataclasses.

    Args:
        target: ``module:name`` without ``dmeta.``.
    """
    return declared_options(f"dmeta.{target}")


def prefixed(group: str, options: Iterable[Option], name: str | None = None) -> tuple[Option, ...]:
    """Options with their full names.

    Args:
        group: that they are in.
        options: of the group.
        name: value of ``group.name``, if it is a choice.
    """
    own = [] if name is None else [Option("name", name)]
    own += [each for each in options if name is None or each.name != "name"]
    return tuple(dataclasses.replace(each, name=f"{group}.{each.name}") for each in own)


def _of_entry(group: str, name: str, entry: Entry[Any] | LazyEntry) -> Config:
    """What a registered choice sets: its own options, and the settings that its entry names."""
    chosen = {"gradient": "exact"} if group == "algorithm" else {}
    options = options_of(entry)
    if group == "model":
        options += options_named("training.init_options:InitOptions")
    if group == "task":
        # Keywords of these names are not its own: a run reads them.
        sizes = _sizes(entry)
        read = {each.name for each in [*sizes, *training_options()]}
        options = [*sizes, *(each for each in options if each.name not in read)]
        if isinstance(entry, Entry) and len(_constant(entry.make, "input_shape", ())) == (
            _SHAPE_OF_IMAGES
        ):
            chosen["model"] = "conv4"
    values = {}
    for key, value in entry.settings.items():
        if key in (*REGISTRIES, "outer"):
            chosen[key] = value
        else:
            values[key] = value
    return Config(prefixed(group, options, name), chosen, values)


def options_of(entry: Entry[Any] | LazyEntry) -> list[Option]:
    """Its own options; of a task's ``root`` the default is the data root of this machine."""
    if isinstance(entry, LazyEntry):
        found = () if entry.is_ready else declared_options(entry.target)
    else:
        from dmeta.options import default_options  # imports pydantic

        texts = documented(inspect.getdoc(entry.make) or "")
        defaults = default_options(entry.make).items()
        found = tuple(Option(name, value, texts.get(name, "")) for name, value in defaults)
    own = [each for each in found if each.name not in PROVIDED]
    return [
        dataclasses.replace(each, default=DATA_ROOT)
        if each.name == "root" and each.default is None
        else each
        for each in own
    ]


def _sizes(entry: Entry[Any] | LazyEntry) -> list[Option]:
    """The size of a task, which every source is asked for: at evaluation, and in training."""
    kind = _constant(entry.make, "kind", "classification") if isinstance(entry, Entry) else ""
    defaults = {"ways": _WAYS.get(kind, 5), "shots": 1, "queries": 15}
    if kind == "regression":
        defaults |= {"shots": 10, "queries": 10}
    declared = options_named("tasks.source:EpisodeSize")
    evaluation = [
        dataclasses.replace(each, default=defaults.get(each.name, each.default))
        for each in declared
    ]
    training = [
        Option(
            f"train_{each.name}",
            None,
            f"{each.help.rstrip('.')}, in training; None: as at evaluation.",
            _or_none(each),
        )
        for each in declared
    ]
    return [*evaluation, *training]


def training_options() -> list[Option]:
    """Of any task: the size of a mini-batch, for methods that are trained on such; augmentation."""
    sizes = [
        dataclasses.replace(each, name=f"train_{each.name}", default=None, type_of=_or_none(each))
        for each in options_named("tasks.source:BatchSize")
    ]
    run = options_named("training.task_options:TaskOptions")
    return [*sizes, *(each for each in run if each.name == "augment")]


def _or_none(option: Option) -> Callable[[], Any]:
    return lambda: option.type_of() | None


def _constant(make: Callable[..., Any], name: str, otherwise: Any) -> Any:
    """A constant of the class that a factory makes, if it is one and says its class."""
    made: Any = make
    if not inspect.isclass(make):
        try:
            made = typing.get_type_hints(make).get("return")
        except (NameError, TypeError):
            return otherwise
    value = getattr(made, name, otherwise)
    return value if isinstance(value, str | tuple | list) else otherwise


def _of_optimizer(name: str) -> Config:
    """An optimiser of torch, with torch's own arguments and defaults."""
    found = next(each for known, each in OPTIMIZERS.items() if known == name)
    rate = next(each for each in options_named(_OUTER) if each.name == "lr")
    text = f"argument of torch.optim.{found.target.partition(':')[2]}, with torch's default."
    own = [
        dataclasses.replace(each, help=text)
        for each in declared_options(found.target)
        if each.name not in NOT_OPTIONS
    ]
    rate = dataclasses.replace(rate, default=found.lr)
    return Config(prefixed("outer", [rate, *own], name))


_OUTER = "training.outer.options:OuterOptions"
