"""The settings of one run as frozen dataclasses, checked key by key. Knows no Hydra.

Each room owns its own settings; this module owns those of training and puts all of them together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from dmeta.addresses import is_address, last_part
from dmeta.options import NamedOptions, checked, typed
from dmeta.runtime.options import ComputeOptions, RuntimeOptions
from dmeta.tasks.source import EpisodeSize
from dmeta.training.byte_size import parse_bytes

_T = TypeVar("_T")


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks, and how large.

    Attributes:
        source: the task source and its own options (data root, split, ...).
        evaluation: size of a task at evaluation.
        training: size of a task in training.
    """

    source: NamedOptions
    evaluation: EpisodeSize
    training: EpisodeSize


OptimizerName: TypeAlias = Literal[
    "adam",
    "adamw",
    "nadam",
    "radam",
    "adamax",
    "adagrad",
    "adadelta",
    "rmsprop",
    "rprop",
    "asgd",
    "sgd",
]


@dataclass(frozen=True)
class OuterOptions:
    """The outer optimiser.

    Attributes:
        name: an optimiser of `torch.optim` in lower case: ``adam``, ``adamw``, ``sgd``,
            ``rmsprop``...
        lr: outer learning rate at step 0.
        final_lr: outer learning rate at the last step; unused if the schedule is constant.
        schedule: how the rate goes from lr to final_lr: ``constant``, ``linear`` or ``cosine``.
        schedule_every: outer steps between changes of the rate: an epoch, where published code
            anneals by epochs.
        warmup_steps: outer steps over which the rate first rises linearly to lr; the schedule
            covers the steps after them.
        clip_value: bound on each element of the mean meta-gradient; None: no bound.
        clip_norm: bound on its 2-norm, applied after clip_value; None: no bound.
        clip_norm_over: which 2-norm clip_norm bounds: that of ``all`` of the mean meta-gradient,
            or that of each ``tensor`` (as in LEO's code).
        reject_norm: a mean meta-gradient with a larger 2-norm, before clipping, is not applied,
            like one that is not finite; None: no bound.
        options: the optimiser's own arguments (``betas``, ``weight_decay``, ...), with torch's
            names and defaults; in a configuration they are keys of ``outer``.
    """

    name: OptimizerName = "adam"
    lr: float = 1e-3
    final_lr: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    schedule_every: int = 1
    warmup_steps: int = 0
    clip_value: float | None = None
    clip_norm: float | None = None
    clip_norm_over: Literal["all", "tensor"] = "all"
    reject_norm: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalOptions:
    """Evaluation.

    Attributes:
        every: outer steps between evaluations on validation tasks; one also follows the last
            step. ``auto``: a tenth of the steps. 0: never.
        val_tasks: number of validation tasks of each evaluation.
        num_tasks: number of test tasks of the final evaluation.
        seed: seed of validation and test tasks. It is independent of the run's seed, so that runs
            are compared on the same tasks.
        checkpoint: what the final evaluation is of: the ``last`` step, the ``best`` on validation
            tasks, or an ``ensemble``, the average prediction of several best ones (as in MAML++,
            Antoniou et al. 2019, arXiv:1810.09502, section 5).
        ensemble_size: most models in the ensemble.
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
        keep: how many of the last ones are kept; the best ones are always kept.
        location: where they are written, for this run only: a path, or a URL such as
            ``s3://bucket/folder``; None: in run_dir.
    """

    every: int = 1000
    keep: int = 3
    location: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    Attributes:
        seed: seed of the initial weights and the training tasks.
        steps: number of outer steps.
        meta_batch_size: tasks per outer step.
        run_dir: folder, or URL such as ``s3://bucket/runs/x``, for everything that the run writes;
            None: a new folder under ./runs.
        resume: continue from the last checkpoint in run_dir; ``auto``: if there is a run, else
            start one.
        device: ``cpu``, ``cuda``, or ``auto``: cuda where a worker has one.
        max_rejected: this many rejected steps in a row (not finite, or above outer.reject_norm)
            end the run.
        log_every: outer steps between lines of metrics.jsonl.
        joint_baseline: also train a jointly pre-trained network on as many tasks, and compare.
        algorithm: the method.
        gradient: the meta-gradient estimator.
        task: the tasks.
        loss: loss of support and query sets: ``auto`` (cross-entropy, or the mean squared error),
            ``cross_entropy``, ``smoothed_cross_entropy``, ``mse``, ``l1`` or ``huber``.
        model: the network.
        outer: the outer optimiser.
        compute: how a block is computed; part of the result.
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
    algorithm: NamedOptions
    gradient: NamedOptions
    task: TaskOptions
    loss: str
    model: NamedOptions
    outer: OuterOptions
    compute: ComputeOptions
    runtime: RuntimeOptions
    eval: EvalOptions
    checkpoint: CheckpointOptions

    def __post_init__(self) -> None:
        """Refuses impossible numbers."""
        _at_least(self, "", steps=1, meta_batch_size=1, max_rejected=1, log_every=1, seed=0)
        _at_least(self.eval, "eval.", every=0, val_tasks=2, num_tasks=2, seed=0, ensemble_size=1)
        _at_least(self.checkpoint, "checkpoint.", every=0, keep=1)
        _at_least(self.outer, "outer.", schedule_every=1, warmup_steps=0)
        _at_least(self.task.evaluation, "task.", ways=1, shots=1, queries=1)
        _at_least(self.task.training, "task.train_", ways=1, shots=1, queries=1)
        _ = self.memory_budget
        if self.run_dir == "":
            raise ValueError("run_dir must name a folder or be null, got ''; change it")
        if not self.outer.lr > 0:
            raise ValueError(f"outer.lr must be > 0, got {self.outer.lr}; raise it")
        if self.outer.final_lr < 0:
            raise ValueError(f"outer.final_lr must be >= 0, got {self.outer.final_lr}; raise it")
        for key in ("lr", "final_lr"):  # beyond it, Adam's steps overflow float32
            if getattr(self.outer, key) > MAX_LR:
                raise ValueError(
                    f"outer.{key} must be <= {MAX_LR:g}, got {getattr(self.outer, key)}; lower it"
                )
        for key in ("clip_value", "clip_norm", "reject_norm"):
            bound = getattr(self.outer, key)
            if bound is not None and not bound > 0:
                raise ValueError(f"outer.{key} must be > 0 or null, got {bound}; raise it")

    @property
    def num_blocks(self) -> int:
        """Blocks of an outer step."""
        return math.ceil(self.meta_batch_size / self.compute.block_size)

    @property
    def run_id(self) -> str:
        """Names the run in logs and metrics: its folder and what it is of, so that it stays."""
        place = "run" if self.run_dir is None else self.run_dir
        folder = last_part(place if is_address(place) else str(Path(place).absolute()))
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
        plain["outer"] |= plain["outer"].pop("options")
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
        groups = ("algorithm", "gradient", "loss", "model", "outer", "compute")
        deciding = {key: plain[key] for key in ("seed", "meta_batch_size", *groups)}
        # What the budget made of the gradient is its name.
        deciding["gradient"].pop(MEMORY_BUDGET, None)
        # Sizes of evaluation tasks and where the data lies do not touch the parameters.
        left_out = DATA_LOCATION.union(EPISODE_KEYS)
        deciding["task"] = {k: v for k, v in plain["task"].items() if k not in left_out}
        deciding["mode"] = self.runtime.mode
        if self.outer.schedule != "constant":
            deciding["steps"] = self.steps
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


MAX_LR = 1e10
_AUTO_VALIDATIONS = 10

MEMORY_BUDGET = "memory_budget"
"""Option of the exact gradients; chooses between them (`dmeta.training.autotune.memory_budget`)."""

DATA_LOCATION = frozenset({"root", "file", "download", "cache"})
"""Options of a task source that say where its data is, not what it is (its ``sha256`` does)."""

MOVED = {
    "outer.beta1": "outer.betas",
    "outer.beta2": "outer.betas",
    **{f"runtime.{key.name}": f"compute.{key.name}" for key in dataclasses.fields(ComputeOptions)},
}
"""Keys of earlier versions -> what they are called now."""

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
    for old, new in MOVED.items():
        group, _, key = old.partition(".")
        if isinstance(values.get(group), Mapping) and key in values[group]:
            raise ValueError(f"{old} is now called {new}; rename it")
    for key in ("algorithm", "gradient", "model"):
        values[key] = _choice(values.get(key), key)
    values["task"] = _task_options(values.get("task"))
    values["outer"] = _with_options(values.get("outer", {}))
    values["eval"] = _settled(values.get("eval", {}), values.get("steps"))
    for key, cls in (
        ("outer", OuterOptions),
        ("compute", ComputeOptions),
        ("runtime", RuntimeOptions),
        ("eval", EvalOptions),
        ("checkpoint", CheckpointOptions),
    ):
        values[key] = checked(cls, values.get(key, {}), key)
    return checked(RunConfig, values, "")


def with_moved_keys(settings: Any) -> Any:
    """Settings that an earlier version wrote, under the keys of this one.

    What is not a group of settings is returned as it is, for `run_config` to refuse.
    """
    if not isinstance(settings, Mapping):
        return settings
    moved = {key: dict(v) if isinstance(v, Mapping) else v for key, v in settings.items()}
    outer = moved.get("outer")
    if isinstance(outer, dict) and "beta1" in outer:  # adam and sgd had the keys of both
        betas = [outer.pop("beta1"), outer.pop("beta2", 0.999)]
        momentum, eps = outer.pop("momentum", 0.0), outer.pop("eps", 1e-8)
        is_adam = outer.get("name") == "adam"
        outer |= {"betas": betas, "eps": eps} if is_adam else {"momentum": momentum}
    for old, new in MOVED.items():
        group, _, key = old.partition(".")
        if isinstance(moved.get(group), dict) and key in moved[group]:
            target = moved.setdefault(new.partition(".")[0], {})
            if isinstance(target, dict):
                target[key] = moved[group].pop(key)
    return moved


def _with_options(group: Any) -> Any:
    """The group ``outer`` with the optimiser's own arguments apart from the rest."""
    if not isinstance(group, Mapping):
        return group
    known = {each.name for each in dataclasses.fields(OuterOptions)} - {"options"}
    own = {key: value for key, value in group.items() if key not in known}
    return {**{k: v for k, v in group.items() if k in known}, "options": own}


def _settled(evaluation: Any, steps: Any) -> Any:
    """The group ``eval`` with a number of steps for ``every=auto``."""
    if not isinstance(evaluation, Mapping) or evaluation.get("every") != "auto":
        return evaluation
    # Steps that are no number are refused under their own key.
    every = max(1, steps // _AUTO_VALIDATIONS) if type(steps) is int else 1
    return {**evaluation, "every": every}


def _choice(group: Any, prefix: str) -> NamedOptions:
    if not isinstance(group, Mapping) or not isinstance(group.get("name"), str):
        got = group.get("name") if isinstance(group, Mapping) else group
        raise ValueError(f"{prefix}.name must be a registered name, got {got!r}; set {prefix}=...")
    return NamedOptions(group["name"], {k: v for k, v in group.items() if k != "name"})


def _task_options(group: Any) -> TaskOptions:
    choice = _choice(group, "task")
    options = dict(choice.options)
    sizes: dict[str, Any] = {key: options.pop(key, 1) for key in EPISODE_KEYS}
    evaluation = checked(EpisodeSize, sizes, "task")
    own = {key: options.pop(f"train_{key}", None) for key in EPISODE_KEYS}
    training = {
        key: typed(value, int, f"task.train_{key}")
        for key, value in own.items()
        if value is not None
    }
    return TaskOptions(
        source=NamedOptions(choice.name, options),
        evaluation=evaluation,
        training=dataclasses.replace(evaluation, **training),
    )


def _at_least(group: Any, prefix: str, **bounds: int) -> None:
    for key, bound in bounds.items():
        if getattr(group, key) < bound:
            raise ValueError(
                f"{prefix}{key} must be >= {bound}, got {getattr(group, key)}; raise it"
            )
