"""The settings of one run as frozen dataclasses, checked key by key. Knows no Hydra.

Each room owns its own settings; this module owns those of training and puts all of them together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import NonNegativeInt, PositiveInt

from dmeta.addresses import is_address, last_part
from dmeta.metrics.choice import check_names
from dmeta.options import NamedOptions, check_fields, checked, named_options
from dmeta.runtime.options import ComputeOptions, RuntimeOptions
from dmeta.training.byte_size import parse_bytes
from dmeta.training.init_options import INIT_KEYS
from dmeta.training.moved_keys import refuse_moved
from dmeta.training.outer.options import OuterOptions
from dmeta.training.task_options import (
    EPISODE_KEYS,
    SAMPLING_DEFAULTS,
    OtherTasks,
    TaskOptions,
    other_tasks,
    task_options,
)
from dmeta.typed_values import AtLeastTwo

_T = TypeVar("_T")


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
        metrics: of validation and test tasks, by name. The first is the primary one, by which
            checkpoints and the trials of a search are compared; None: those of the task source, or
            [accuracy] for classification and [mse] for regression.
        task: test tasks of other sources, for the final evaluation besides those of the run: a task
            source, a list of such, or name -> settings (``name`` of the source, ``ways``,
            ``shots``, ``queries`` and options of the source; what is left out is as usual, the
            sizes as the run's own).
    """

    every: NonNegativeInt | Literal["auto"] = "auto"
    val_tasks: AtLeastTwo = 200
    num_tasks: AtLeastTwo = 600
    seed: NonNegativeInt = 1
    checkpoint: Literal["last", "best", "ensemble"] = "last"
    ensemble_size: PositiveInt = 5
    metrics: tuple[str, ...] | None = None
    task: OtherTasks | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "eval")
        other_tasks(self.task)
        if self.metrics is not None:
            check_names(self.metrics, "eval.metrics")

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

    every: NonNegativeInt = 1000
    keep: PositiveInt = 3
    location: str | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "checkpoint")


@dataclass(frozen=True, kw_only=True)
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
        batch_norm: what normalises a task's queries in layers of batch-norm: ``transductive``, all
            queries together in training (evaluation reports it and the support set's statistics);
            ``support``, the statistics of the support set, in training, too; ``task_norm``, those
            blended with each query's own by a learned weight (TaskNorm-I, Bronskill et al. 2020,
            arXiv:2003.03284); ``task_norm_l``, with those over all its channels (TaskNorm-L). With
            the last three no query sees another one.
        outer: the outer optimiser.
        compute: how a block is computed; part of the result.
        runtime: who computes.
        eval: evaluation.
        checkpoint: checkpoints.
    """

    seed: NonNegativeInt = 0
    steps: PositiveInt = 10000
    meta_batch_size: PositiveInt = 25
    run_dir: str | None = None
    resume: bool | Literal["auto"] = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_rejected: PositiveInt = 10
    log_every: PositiveInt = 100
    joint_baseline: bool = False
    batch_norm: Literal["transductive", "support", "task_norm", "task_norm_l"] = "transductive"
    algorithm: NamedOptions
    gradient: NamedOptions
    task: TaskOptions
    loss: str = "auto"
    model: NamedOptions
    outer: OuterOptions
    compute: ComputeOptions
    runtime: RuntimeOptions
    eval: EvalOptions
    checkpoint: CheckpointOptions

    def __post_init__(self) -> None:
        """Check the fields; settle ``eval.every=auto``."""
        check_fields(self, "")
        if self.run_dir == "":
            raise ValueError("run_dir must name a folder or be null, got ''; change it")
        _ = self.memory_budget
        if self.eval.every == "auto":
            every = max(1, self.steps // _AUTO_VALIDATIONS)
            object.__setattr__(self, "eval", dataclasses.replace(self.eval, every=every))

    @property
    def validation_every(self) -> int:
        """Outer steps between evaluations on validation tasks; 0: never."""
        assert self.eval.every != "auto"
        return self.eval.every

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
        training = dict(task["training"])
        if training.get("class_sizes", ()) is None:
            del training["class_sizes"]  # as in settings from before there was such a key
        plain["task"] = {
            "name": task["source"]["name"],
            **task["evaluation"],
            **{f"train_{key}": value for key, value in training.items()},
            **task["source"]["options"],
        }
        if task["augment"]:  # no such key in settings from before there was one
            plain["task"]["augment"] = [_as_named(each) for each in self.task.augment]
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
        if deciding["algorithm"].get("teachers_sha256"):  # which they are, wherever they lie
            del deciding["algorithm"]["teachers"]
        # Sizes of evaluation tasks and where the data lies do not touch the parameters.
        left_out = DATA_LOCATION.union(EPISODE_KEYS)
        task = {k: v for k, v in plain["task"].items() if k not in left_out}
        for key, usual in SAMPLING_DEFAULTS.items():  # as in runs from before there were such keys
            if task.get(f"train_{key}", ()) == usual:
                del task[f"train_{key}"]
        deciding["task"] = {k: _without_location(v) for k, v in task.items()}
        deciding["mode"] = self.runtime.mode
        # The weights are known by their digest; without any, runs are those of earlier versions.
        left_out_of_model = {"init_from", *(k for k in INIT_KEYS if not plain["model"].get(k))}
        deciding["model"] = {k: v for k, v in plain["model"].items() if k not in left_out_of_model}
        if self.batch_norm != "transductive":
            deciding["batch_norm"] = self.batch_norm
        if self.outer.schedule != "constant":
            deciding["steps"] = self.steps
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


_AUTO_VALIDATIONS = 10

MEMORY_BUDGET = "memory_budget"
"""Option of the exact gradients; chooses between them (`dmeta.training.autotune.memory_budget`)."""

DATA_LOCATION = frozenset({"root", "file", "download", "cache"})
"""Options of a task source that say where its data is, not what it is (its ``sha256`` does)."""


def _as_named(choice: NamedOptions) -> str | dict[str, Any]:
    """As a user writes it in a list of such."""
    return {"name": choice.name, **choice.options} if choice.options else choice.name


def _without_location(value: Any) -> Any:
    """Without `DATA_LOCATION` of the sources in a list of such."""
    if isinstance(value, list | tuple):
        return [_without_location(each) for each in value]
    if isinstance(value, Mapping):
        return {key: each for key, each in value.items() if key not in DATA_LOCATION}
    return value


def run_config(mapping: Mapping[str, Any]) -> RunConfig:
    """A composed configuration as checked dataclasses.

    Args:
        mapping: nested plain data, as `dmeta train --cfg job` shows it.

    Raises:
        ValueError: an unknown, missing or ill-typed key, with its full name and the nearest known
            one; an impossible number.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(f"the settings must be a group, got {mapping!r}; give keys with values")
    values = dict(mapping)
    refuse_moved(values)
    for key in ("algorithm", "gradient", "model"):
        values[key] = named_options(values.get(key), key)
    values["task"] = task_options(values.get("task"))
    values["outer"] = _with_options(values.get("outer", {}))
    for key, cls in (
        ("outer", OuterOptions),
        ("compute", ComputeOptions),
        ("runtime", RuntimeOptions),
        ("eval", EvalOptions),
        ("checkpoint", CheckpointOptions),
    ):
        values[key] = checked(cls, values.get(key, {}), key)
    return checked(RunConfig, values, "")


def _with_options(group: Any) -> Any:
    """The group ``outer`` with the optimiser's own arguments apart from the rest."""
    if not isinstance(group, Mapping):
        return group
    known = {each.name for each in dataclasses.fields(OuterOptions)} - {"options"}
    own = {key: value for key, value in group.items() if key not in known}
    return {**{k: v for k, v in group.items() if k in known}, "options": own}
