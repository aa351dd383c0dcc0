"""`dmeta evaluate` and `dmeta.evaluate`: a trained run on tasks of unseen classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt
from torch import nn

from dmeta.bilevel.types import Loss
from dmeta.cli.given_tasks import num_given, with_fixed_size
from dmeta.cli.load import check_model, find_checkpoint
from dmeta.cli.saved_run import NONE, read_saved, typed_root, with_root
from dmeta.cli.settings.trust import check_saved, trusts
from dmeta.cli.single_run import alone_in_process
from dmeta.cli.terminal.results_table import print_results
from dmeta.launch import open_runtime
from dmeta.metrics import declaration
from dmeta.metrics.choice import check_names, name_of
from dmeta.metrics.metric import Metric
from dmeta.options import NamedOptions, check_fields, checked
from dmeta.runs.checkpoint import open_checkpoints
from dmeta.runs.declared_metrics import DECLARED
from dmeta.runs.folder import RunPlace, run_place
from dmeta.runs.layout import EVALUATION
from dmeta.runs.progress import progress_of
from dmeta.runtime.options import RuntimeOptions
from dmeta.tasks.fixed_tasks import FixedTasks
from dmeta.tasks.in_memory import Arrays, source_of
from dmeta.tasks.source import Split, TaskSource
from dmeta.training.build import make_source
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import Evaluation, as_plain
from dmeta.training.frozen_weights import check_same
from dmeta.training.model_evaluation import (
    best_checkpoints,
    evaluate_ensemble,
    evaluate_tasks,
    restore,
    warn_of_left_out,
)
from dmeta.training.other_tasks import check_fit, with_tasks
from dmeta.training.results import write_json
from dmeta.training.setup import prepare
from dmeta.training.task_options import EPISODE_KEYS, described, size_type
from dmeta.typed_values import AtLeastTwo, typed

_NUM_TASKS = 600


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of `dmeta evaluate`.

    Attributes:
        run_dir: the run to evaluate: a folder that `dmeta train` wrote, or its URL.
        checkpoint: ``last``, ``best`` (on validation tasks), ``ensemble`` (of the run's best ones:
            eval.checkpoint=ensemble), or the step of a kept checkpoint.
        split: classes the tasks are drawn from: ``val`` or ``test``.
        num_tasks: number of tasks; None: 600, or all of a source whose tasks are given
            (``task.support``).
        seed: seed of the tasks; None: the run's own eval.seed, so that the tasks are those of its
            results.json.
        inner_steps: inner steps; None: the run's own algorithm.eval_inner_steps.
        root: where the data is; None: where the run found it.
        device: ``cpu``, ``cuda``, or ``auto``: cuda where a worker has one.
        runtime: who computes.
        task: other tasks than the run's own: ``name`` of another task source, ``ways``, ``shots``,
            ``queries``, and options of the source (``task.split=lake``); None: as those.
        metrics: by name, the primary one first; None: those of the run.
    """

    run_dir: str
    checkpoint: NonNegativeInt | Literal["last", "best", "ensemble"] = "last"
    split: Split = "test"
    num_tasks: AtLeastTwo | None = None
    seed: NonNegativeInt | None = None
    inner_steps: NonNegativeInt | None = None
    root: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: RuntimeOptions
    task: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "")
        if self.metrics is not None:
            check_names(self.metrics, "metrics")
        for key in EPISODE_KEYS:
            typed(self.task.get(key), size_type(key) | None, f"task.{key}")


@alone_in_process("dmeta.evaluate")
def evaluate(
    run_dir: str | Path,
    *,
    checkpoint: int | Literal["last", "best", "ensemble"] = "last",
    split: Split = "test",
    num_tasks: int | None = None,
    seed: int | None = None,
    inner_steps: int | None = None,
    root: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    runtime: RuntimeOptions | None = None,
    task: Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    data: Arrays | None = None,
    algorithm: Any = None,
    loss: Loss | None = None,
    metrics: Sequence[str | Metric] | None = None,
    trust: bool = False,
) -> Evaluation:
    """Evaluate a trained run on tasks of unseen classes.

    Args:
        run_dir: what `dmeta.train` wrote.
        checkpoint: ``last``, ``best`` on validation tasks, ``ensemble`` (the average prediction of
            the best ones that the run kept, see eval.ensemble_size), or the step of a kept one.
        split: ``val`` or ``test``.
        num_tasks: number of tasks; None: 600, or all of a source whose tasks are given
            (``{"support": "train_*.json", "query": "test.json"}``).
        seed: of the tasks; None: the run's own, so that they are those of its results.
        inner_steps: None: the run's own.
        root: where the data is; None: where the run found it.
        device: ``cpu``, ``cuda`` or ``auto``.
        runtime: who computes; None: this process.
        task: other tasks than the run's own: ``ways`` (of a method whose output does not depend on
            them), ``shots``, ``queries``, ``name`` of another task source, and options of the
            source, as in ``{"shots": 5}`` or ``{"name": "omniglot", "split": "lake"}``.
        model: your own object that the run was trained with, if it was; likewise the next four.
        source: see `model`.
        data: arrays instead of a source, as for `dmeta.train`.
        algorithm: see `model`.
        loss: see `model`.
        metrics: names, or your own (`dmeta.Metric`), the primary one first; None: those of the run,
            which must be given again if they were your own.
        trust: contact the addresses in the run's settings even if someone else wrote them.

    Raises:
        ValueError: the run, its checkpoint or a setting is not what it must be.
    """
    wanted = EvaluateConfig(
        run_dir=str(run_dir),
        checkpoint=checkpoint,
        split=split,
        num_tasks=num_tasks,
        seed=seed,
        inner_steps=inner_steps,
        root=root,
        device=device,
        runtime=runtime or RuntimeOptions(name="local"),
        task=task or {},
        metrics=None if metrics is None else tuple(map(name_of, metrics)),
    )
    own = {
        "model": model,
        "source": source_of(source, data),
        "algorithm": algorithm,
        "loss": loss,
        "metrics": metrics,
    }
    with run_place(run_dir) as place:
        result = _evaluate(wanted, place, own, trust)[1]
    warn_of_left_out(result)
    return result


def evaluate_command(settings: dict[str, Any], overrides: list[str]) -> None:
    """The verb: evaluate, print the table, write ``run_dir/evaluation.json``."""
    config = _config_of(settings)
    with run_place(config.run_dir) as place:
        run, result = _evaluate(config, place, NONE, trusts(overrides))
        content = {
            "algorithm": run.algorithm.name,
            "metric": result.metric,
            DECLARED: [declaration.as_plain(each) for each in result.declarations],
            "test": as_plain(result),
            "tasks": described(run.task),
            "settings": dataclasses.asdict(config),
        }
        # Shown before it is written: a place that can only be read costs no result.
        print_results(
            content,
            paths=[place.locate(EVALUATION)],
            next_command="dmeta list   # what else can be trained",
        )
        write_json(place.folder / EVALUATION, content)
        place.push()


def check_command(settings: dict[str, Any], overrides: list[str]) -> None:  # noqa: ARG001
    """Check what of the verb can be checked where the run, its data and the cluster are not.

    Raises:
        ValueError: whatever is wrong with the settings.
    """
    _config_of(settings)


def _config_of(settings: Mapping[str, Any]) -> EvaluateConfig:
    values = {**settings, "runtime": checked(RuntimeOptions, settings["runtime"], "runtime")}
    return checked(EvaluateConfig, values, "")


def _evaluate(
    wanted: EvaluateConfig, place: RunPlace, own: Mapping[str, Any], trust: bool
) -> tuple[RunConfig, Evaluation]:
    run_dir = place.folder
    saved = read_saved(place)
    own = {**own, "metrics": own["metrics"] or wanted.metrics}
    needed = {part: each for part, each in own.items() if part != "augment"}  # of training alone
    saved.check_own(needed, place.name, f"dmeta.evaluate({place.name!r}")
    config = saved.config
    if not trust:
        check_saved(
            with_root(config, wanted.root).as_mapping(), place.name, typed=typed_root(wanted.root)
        )
    is_ensemble = wanted.checkpoint == "ensemble"
    checkpoint = find_checkpoint(run_dir, config, "best" if is_ensemble else wanted.checkpoint)
    last = find_checkpoint(run_dir, config, "last") if is_ensemble else checkpoint
    storage = open_checkpoints(run_dir, config.checkpoint.location)
    config = with_tasks(_with_changes(config, wanted), saved.shapes.ways, wanted.task)
    given = own.get("source")
    data: TaskSource = make_source(config) if given is None else given
    name = config.task.source.name if given is None else type(given).__name__
    remedy = "choose another task.name (or source=)"
    check_fit(data, name, saved.shapes.taken, "the task", remedy)
    num_tasks = wanted.num_tasks or _NUM_TASKS
    if isinstance(data, FixedTasks):
        config = with_fixed_size(config, saved.shapes.ways, data, wanted.task)
        num_tasks = num_given(data, wanted.num_tasks)
    run = prepare(config, **own, data=data, splits=[wanted.split], read_weights=False)
    check_same(config, run.algorithm.network, place.name)
    check_model(run.algorithm.init_meta_params(), checkpoint.meta_params(), place.name)
    with open_runtime(run) as runtime:
        if is_ensemble:
            best = best_checkpoints(storage, progress_of(last))
            return run.config, evaluate_ensemble(run, runtime, wanted.split, num_tasks, best)
        restore(runtime, checkpoint)
        found = evaluate_tasks(run, runtime, wanted.split, num_tasks, checkpoint.step)
        return run.config, found


def _with_changes(config: RunConfig, wanted: EvaluateConfig) -> RunConfig:
    algorithm, evaluation = config.algorithm, config.eval
    if wanted.inner_steps is not None:
        options = {**algorithm.options, "eval_inner_steps": wanted.inner_steps}
        algorithm = NamedOptions(algorithm.name, options)
    if wanted.seed is not None:
        evaluation = dataclasses.replace(evaluation, seed=wanted.seed)
    return dataclasses.replace(
        with_root(config, wanted.root),
        algorithm=algorithm,
        eval=evaluation,
        device=wanted.device,
        runtime=wanted.runtime,
    )
