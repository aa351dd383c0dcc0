"""The settings of one run as frozen dataclasses, checked key by key. Knows no Hydra.

Each room owns its own settings; this module owns those of training and puts all of them together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from dmeta.addresses import is_address
from dmeta.registry import nearest
from dmeta.runtime.options import DECIDING, RuntimeOptions
from dmeta.tasks.source import EpisodeSize
from dmeta.training.byte_size import parse_bytes

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """A name from a registry and the options for what it names.

    Attributes:
        name: registered name.
        options: keywords of the registered factory.
    """

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks, and how large.

    Attributes:
        source: the task source and its own options (data root, split, ...).
        evaluation: size of a task at evaluation.
        training: size of a task in training.
    """

    source: Choice
    evaluation: EpisodeSize
    training: EpisodeSize


@dataclass(frozen=True)
class OuterOptions:
    """The outer optimiser.

    Attributes:
        name: ``adam`` (Kingma & Ba 2015) or ``sgd``.
        lr: outer learning rate at step 0.
        final_lr: outer learning rate at the last step; read unless the schedule is constant.
        schedule: how lr goes to final_lr over the steps: ``constant``, ``linear`` or ``cosine``.
        momentum: SGD's momentum (0: none).
        beta1: Adam's decay of the first moment.
        beta2: Adam's decay of the second moment.
        eps: Adam's epsilon.
        clip_value: bound on each element of the mean meta-gradient; None: no bound.
        clip_norm: bound on its 2-norm, applied after clip_value; None: no bound.
        reject_norm: a mean meta-gradient of a larger 2-norm, before clipping, is not applied, as
            one that is not finite; None: no bound.
    """

    name: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    final_lr: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_value: float | None = None
    clip_norm: float | None = None
    reject_norm: float | None = None


@dataclass(frozen=True)
class EvalOptions:
    """Evaluation.

    Attributes:
        every: outer steps between evaluations on validation tasks; 0: never.
        val_tasks: validation tasks of each of those.
        num_tasks: test tasks of the final evaluation.
        seed: seed of validation and test tasks; independent of the run's seed, so that runs are
            compared on the same tasks.
        checkpoint: what the final evaluation is of: the ``last`` step, the ``best`` on validation
            tasks, or an ``ensemble``, the average prediction of several best ones (as in MAML++,
            Antoniou et al. 2019, arXiv:1810.09502, section 5).
        ensemble_size: how many those are, at most.
    """

    every: int = 1000
    val_tasks: int = 200
    num_tasks: int = 600
    seed: int = 1
    checkpoint: Literal["last", "best", "ensemble"] = "last"
    ensemble_size: int = 5

    @property
    def num_best(self) -> int:
        """How many of the best models on validation tasks are kept."""
        return self.ensemble_size if self.checkpoint == "ensemble" else 1


@dataclass(frozen=True)
class CheckpointOptions:
    """Checkpoints.

    Attributes:
        every: outer steps between checkpoints; 0: only at the end.
        keep: how many of the last ones are kept; the best ones are kept besides.
        location: where they are written, of this run alone: a path, or an address such as
            ``s3://bucket/folder``; None: in run_dir.
    """

    every: int = 1000
    keep: int = 3
    location: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    Attributes:
        seed: of the initial weights and the training tasks.
        steps: outer steps.
        meta_batch_size: tasks per outer step.
        run_dir: where everything the run writes goes; None: a new folder under ./runs.
        resume: go on from the last checkpoint in run_dir; ``auto``: if there is a run.
        device: ``cpu``, ``cuda``, or ``auto``: cuda where a worker has one.
        max_rejected: rejected (not finite) steps in a row that end the run.
        log_every: outer steps between lines of metrics.jsonl.
        joint_baseline: also train a jointly pre-trained network on the same number of tasks and
            compare with it.
        algorithm: the method.
        gradient: the meta-gradient estimator.
        task: the tasks.
        loss: of support and query set, by name (see `dmeta.training.losses`).
        model: the network.
        outer: the outer optimiser.
        runtime: who computes.
        eval: evaluation.
        checkpoint: checkpoints.
    """

    seed: int
    steps: int
    meta_batch_size: int
    run_dir: str | None
    resume: bool | Literal["auto"]
    device: Literal["auto", "cpu", "cuda"]
    max_rejected: int
    log_every: int
    joint_baseline: bool
    algorithm: Choice
    gradient: Choice
    task: TaskOptions
    loss: str
    model: Choice
    outer: OuterOptions
    runtime: RuntimeOptions
    eval: EvalOptions
    checkpoint: CheckpointOptions

    def __post_init__(self) -> None:
        """Refuses impossible numbers."""
        _at_least(self, "", steps=1, meta_batch_size=1, max_rejected=1, log_every=1, seed=0)
        _at_least(self.eval, "eval.", every=0, val_tasks=2, num_tasks=2, seed=0, ensemble_size=1)
        _at_least(self.checkpoint, "checkpoint.", every=0, keep=1)
        _at_least(self.task.evaluation, "task.", ways=1, shots=1, queries=1)
        _at_least(self.task.training, "task.train_", ways=1, shots=1, queries=1)
        _ = self.memory_budget
        if self.run_dir == "":
            raise ValueError("run_dir must name a folder or be null, got ''; change it")
        if not self.outer.lr > 0:
            raise ValueError(f"outer.lr must be > 0, got {self.outer.lr}; raise it")
        if self.outer.final_lr < 0:
            raise ValueError(f"outer.final_lr must be >= 0, got {self.outer.final_lr}; raise it")
        if self.outer.eps < 0:
            raise ValueError(f"outer.eps must be >= 0, got {self.outer.eps}; raise it")
        for key in ("clip_value", "clip_norm", "reject_norm"):
            bound = getattr(self.outer, key)
            if bound is not None and not bound > 0:
                raise ValueError(f"outer.{key} must be > 0 or null, got {bound}; raise it")
        for key in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self.outer, key) < 1:
                raise ValueError(
                    f"outer.{key} must be in [0, 1), got {getattr(self.outer, key)}; change it"
                )

    @property
    def num_blocks(self) -> int:
        """Blocks of an outer step."""
        return math.ceil(self.meta_batch_size / self.runtime.block_size)

    @property
    def run_id(self) -> str:
        """Names the run in logs and metrics: its folder and what it is of, so that it stays."""
        place = "run" if self.run_dir is None else self.run_dir
        folder = Path(place.partition("?")[0] if is_address(place) else place).absolute().name
        return f"{folder}-{self.fingerprint()[:6]}"

    @property
    def memory_budget(self) -> int | None:
        """``gradient.memory_budget`` in bytes; None: no budget.

        Raises:
            ValueError: it is not a size.
        """
        value = self.gradient.options.get(MEMORY_BUDGET)
        return None if value is None else parse_bytes(value, f"gradient.{MEMORY_BUDGET}")

    def as_mapping(self) -> dict[str, Any]:
        """The settings under the keys that a user writes; `run_config` takes it back."""
        plain = dataclasses.asdict(self)
        for key in ("algorithm", "gradient", "model"):
            plain[key] = {"name": plain[key]["name"], **plain[key]["options"]}
        task = plain["task"]
        plain["task"] = {
            "name": task["source"]["name"],
            **task["evaluation"],
            **{f"train_{key}": value for key, value in task["training"].items()},
            **task["source"]["options"],
        }
        return plain

    def fingerprint(self) -> str:
        """SHA-256 of the settings that decide the final parameters.

        Not of where it runs, what it reports, or, if the outer rate does not depend on it, for how
        many steps: those may change when a run is resumed.
        """
        plain = self.as_mapping()
        groups = ("seed", "meta_batch_size", "algorithm", "gradient", "loss", "model", "outer")
        deciding = {key: plain[key] for key in groups}
        # What the budget made of the gradient is its name.
        deciding["gradient"].pop(MEMORY_BUDGET, None)
        # Sizes of evaluation tasks and where the data lies do not touch the parameters.
        beside = DATA_LOCATION.union(EPISODE_KEYS)
        deciding["task"] = {k: v for k, v in plain["task"].items() if k not in beside}
        deciding["runtime"] = {key: plain["runtime"][key] for key in DECIDING}
        if self.outer.schedule != "constant":
            deciding["steps"] = self.steps
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


MEMORY_BUDGET = "memory_budget"
"""Option of the gradients that are exact; it chooses between them (`dmeta.training.budget`)."""

DATA_LOCATION = frozenset({"root", "download", "cache"})
"""Options of a task source that say where its data is, not what it is."""

EPISODE_KEYS = ("ways", "shots", "queries")


def run_config(mapping: Mapping[str, Any]) -> RunConfig:
    """A composed configuration as checked dataclasses.

    Args:
        mapping: nested plain data, as in ``configs/train.yaml`` once composed.

    Raises:
        ValueError: an unknown, missing or ill-typed key, with its full name and the nearest known
            one; an impossible number.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(f"the settings must be a group, got {mapping!r}; give keys with values")
    values = dict(mapping)
    for key in ("algorithm", "gradient", "model"):
        values[key] = _choice(values.get(key), key)
    values["task"] = _task_options(values.get("task"))
    for key, cls in (
        ("outer", OuterOptions),
        ("runtime", RuntimeOptions),
        ("eval", EvalOptions),
        ("checkpoint", CheckpointOptions),
    ):
        values[key] = checked(cls, values.get(key, {}), key)
    return checked(RunConfig, values, "")


def checked(cls: type[T], values: Any, prefix: str) -> T:
    """`values` as the dataclass `cls`, every key known and of its declared type.

    Raises:
        ValueError: with the key's full name.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix} must be a group of settings, got {values!r}")
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    _refuse_unknown(values, known, prefix)
    hints = typing.get_type_hints(cls)
    typed = {key: _typed(value, hints[key], _join(prefix, key)) for key, value in values.items()}
    missing = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.name not in typed
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{_join(prefix, missing[0])} must be given, got nothing; set it")
    return cls(**typed)


def checked_options(make: Callable[..., Any], choice: Choice, prefix: str) -> dict[str, Any]:
    """The options of `choice`, checked against the keywords of the factory they go to.

    A keyword that is a dataclass (an inner loop, say) is not an option itself: its fields are, and
    they change the keyword's default.

    Args:
        make: the factory; keywords that a run itself provides (network, loss, shapes) are skipped.
        choice: name and options.
        prefix: the group, for messages.

    Raises:
        ValueError: an unknown or ill-typed option.
    """
    target = make.__init__ if inspect.isclass(make) else make
    hints = typing.get_type_hints(target)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(make).parameters.items()
        if name not in PROVIDED
    }
    group_of = {
        field.name: name
        for name, default in defaults.items()
        if dataclasses.is_dataclass(default)
        for field in dataclasses.fields(default)
    }
    plain = [name for name, default in defaults.items() if not dataclasses.is_dataclass(default)]
    _refuse_unknown(choice.options, [*plain, *group_of], prefix)
    options: dict[str, Any] = {}
    changes: dict[str, dict[str, Any]] = {}
    for key, value in choice.options.items():
        if key in group_of:
            own = typing.get_type_hints(type(defaults[group_of[key]]))
            changes.setdefault(group_of[key], {})[key] = _typed(value, own[key], f"{prefix}.{key}")
        else:
            options[key] = _typed(value, hints.get(key, Any), f"{prefix}.{key}")
    for name, changed in changes.items():
        options[name] = dataclasses.replace(defaults[name], **changed)
    return options


_LARGEST = 2**63 - 1

PROVIDED = frozenset({"network", "loss", "input_shape", "num_outputs", "init_seed"})
"""Keywords of a factory that come from the run, not from a config."""


def _choice(group: Any, prefix: str) -> Choice:
    if not isinstance(group, Mapping) or not isinstance(group.get("name"), str):
        got = group.get("name") if isinstance(group, Mapping) else group
        raise ValueError(f"{prefix}.name must be a registered name, got {got!r}; set {prefix}=...")
    return Choice(group["name"], {k: v for k, v in group.items() if k != "name"})


def _task_options(group: Any) -> TaskOptions:
    choice = _choice(group, "task")
    options = dict(choice.options)
    sizes: dict[str, Any] = {key: options.pop(key, 1) for key in EPISODE_KEYS}
    evaluation = checked(EpisodeSize, sizes, "task")
    own = {key: options.pop(f"train_{key}", None) for key in EPISODE_KEYS}
    training = {
        key: _typed(value, int, f"task.train_{key}")
        for key, value in own.items()
        if value is not None
    }
    return TaskOptions(
        source=Choice(choice.name, options),
        evaluation=evaluation,
        training=dataclasses.replace(evaluation, **training),
    )


def _typed(value: Any, hint: Any, key: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, hint):
        return value
    if isinstance(value, bool) and bool not in (hint, *typing.get_args(hint)) and hint is not Any:
        raise ValueError(f"{key} must be {_words(hint)}, got {value}; change it")
    try:
        typed = TypeAdapter(hint).validate_python(value)
    except ValidationError:
        raise ValueError(f"{key} must be {_words(hint)}, got {value!r}; change it") from None
    _refuse_unusable(typed, key)
    return typed


def _refuse_unusable(value: Any, key: str) -> None:
    """No setting means anything as NaN or infinity, or beyond what torch and numpy count with."""
    if isinstance(value, tuple | list):
        for each in value:
            _refuse_unusable(each, key)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be finite, got {value}; change it")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"{key} must be in -{_LARGEST}..{_LARGEST}, got {value}; change it")


def _words(hint: Any) -> str:
    """A type as a user would say it."""
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is Literal:
        return " or ".join(str(arg) for arg in typing.get_args(hint))
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return f"a list such as [{_words(args[0])}]"
    if typing.get_origin(hint) is Mapping:
        return f"a group, of which each is {_words(args[1])}"
    if args and typing.get_origin(hint) not in (list, dict):
        return " or ".join(_words(arg) for arg in args)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(hint, str(hint))


def _refuse_unknown(values: Mapping[str, Any], known: list[str], prefix: str) -> None:
    for key in values:
        if key not in known:
            options = ", ".join(known) or "nothing"
            raise ValueError(
                f"unknown key '{_join(prefix, key)}'{nearest(key, known)}; "
                f"{prefix or 'the configuration'} has {options}"
            )


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _at_least(group: Any, prefix: str, **bounds: int) -> None:
    for key, bound in bounds.items():
        if getattr(group, key) < bound:
            raise ValueError(
                f"{prefix}{key} must be >= {bound}, got {getattr(group, key)}; raise it"
            )
