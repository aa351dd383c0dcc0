"""The result of a search: the best settings, and their score on test tasks.

``results.json`` of a search: ``format``; ``metric`` and ``metrics`` (the primary one, and what it
is); ``trials`` (how many, by status);
``best`` (number, point, validation score with its 95% confidence interval, steps of the model, the
folder of its run, and which other trials do not differ significantly from it on the validation
tasks); ``test`` (an `Evaluation` on test tasks, of what was chosen, the same for each name in
``eval.task``, and the run it is of; or the failure) or null;
``training_tasks`` (of all trials); ``seconds`` (of all trials, added up); ``space``; ``search``;
``settings`` (of the best); ``versions``; ``hardware``; ``finished`` (UTC).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import ray
import yaml
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dmeta.metrics.declaration import Declaration
from dmeta.metrics.declaration import as_plain as as_plain_metric
from dmeta.quoting import without_interpolations
from dmeta.runs.declared_metrics import DECLARED
from dmeta.runs.folder import RunPlace
from dmeta.runs.layout import FINAL, PRESET, RESULTS, TUNE
from dmeta.search.options import SearchOptions
from dmeta.search.resources import Bundle
from dmeta.search.search_state import plain_space
from dmeta.search.space import Space
from dmeta.search.trial import TrialSetup, evaluate_trial, placed
from dmeta.search.trial_history import Event, events_of
from dmeta.search.trial_reports import ScoreMode
from dmeta.search.trials import TrialRow, not_told_apart
from dmeta.search.tune_callback import Watch, Watcher
from dmeta.search.tuner import SearchSetup
from dmeta.search.user_objects import list_objects as own_in_words
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import as_plain, model_text
from dmeta.training.loop import TrainingStopped
from dmeta.training.nonfatal import guarded
from dmeta.training.results import hardware, versions, write_json

_NOT_IN_PRESETS = ("run_dir", "resume", "runtime", "checkpoint", "device", "joint_baseline")
_GROUPS = ("algorithm", "gradient", "model", "task")


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a finished search found, for a report of it.

    Attributes:
        folder: of the search; ``best.yaml`` is there.
        rows: all trials.
        ranked: those with a score, the best first.
        events: every score that was reported, in order of time.
        space: that was searched.
        mode: which way scores are better.
        config: settings of the best trial.
        summary: content of ``results.json``.
    """

    folder: Path
    rows: Sequence[TrialRow]
    ranked: Sequence[TrialRow]
    events: Sequence[Event]
    space: Space
    mode: ScoreMode
    config: RunConfig
    summary: dict[str, Any]


WriteReport: TypeAlias = Callable[[Findings], None]
"""Writes a page of what a search found."""


def conclude(
    search: SearchSetup,
    watch: Watch,
    setup: TrialSetup,
    bundles: list[Bundle],
    watchers: Sequence[Watcher],
    report: WriteReport | None,
) -> None:
    """Evaluate the best trial on test tasks, once, and write what was found.

    Args:
        search: what was searched, and how.
        watch: has the trials.
        setup: what all trials share.
        bundles: that a trial reserves.
        watchers: called as the work progresses.
        report: writes the page of what was found.

    Raises:
        RuntimeError: no trial has a score.
    """
    place, options, mode = search.place, search.options, search.mode
    rows, ranked = watch.rows, watch.ranked
    if not ranked:
        errors = sorted({row.error for row in rows if row.error})
        raise RuntimeError(
            f"no trial of {len(rows)} has come to a validation score; "
            + (f"the first error: {errors[0]}" if errors else "all diverged, or time ran out")
        )
    best = ranked[0]
    config = setup.configure(dict(best.point))
    preset = preset_of(config, best, len(rows), options, search.own.listed)
    (place.folder / PRESET).write_text(preset)
    place.push_or_warn()
    test = None
    if options.evaluate_best:
        _tell(watchers, f"evaluating the best on {config.eval.num_tasks} test tasks")
        test = _tested(_tested_run(config, best, options, place), best, setup, bundles)
    summary = {
        **_summary(rows, best, config, search.found.metric),
        "test": test,
        "space": plain_space(search.space),
        "search": dataclasses.asdict(options),
    }
    write_json(place.folder / RESULTS, summary)
    place.push_or_warn()
    if report is not None:
        _tell(watchers, "writing the report")
        events = events_of(watch.rows, place.locate(TUNE))
        found = Findings(
            place.folder, watch.rows, ranked, events, search.space, mode, config, summary
        )
        report(found)


def _tell(watchers: Sequence[Watcher], what: str) -> None:
    for watcher in guarded(watchers):
        watcher.on_phase(what)


def preset_of(
    config: RunConfig,
    best: TrialRow,
    num_trials: int,
    options: SearchOptions,
    own: Mapping[str, str],
) -> str:
    """The best settings as a Hydra experiment, complete in itself.

    Args:
        config: settings of the best trial.
        best: the trial.
        num_trials: it was chosen from.
        options: of the search.
        own: names of the user's own objects, by group (`Own.names`), which no file can name.
    """
    settings = {k: v for k, v in config.as_mapping().items() if k not in _NOT_IN_PRESETS}
    if "task" in own:
        settings["task"].pop("name")
    settings = {k: v for k, v in settings.items() if k == "task" or k not in own}
    named = [group for group in _GROUPS if group not in own]
    defaults = [{f"override /{group}": settings[group]["name"]} for group in named]
    defaults.append({"override /outer": config.outer.name})
    content = {"defaults": defaults, **settings, "runtime": {"mode": config.runtime.mode}}
    heading = [
        "# @package _global_",
        f"# The best of {num_trials} trials of `dmeta tune`: trial {best.number}, validation score",
        f"# {best.score:.4f} ± {best.ci95:.4f} on {config.eval.val_tasks} tasks, after "
        f"{best.of_step} outer steps.",
    ]
    if own:
        heading.append(f"# With objects that must be passed from Python: {own_in_words(own)}.")
    if options.scheduler == "pbt":
        heading.append(
            "# The settings changed while it trained: these are the last ones, and a training with"
        )
        heading.append("# them alone is another one.")
    text: str = yaml.safe_dump(_escaped(content), sort_keys=False, allow_unicode=True)
    return "\n".join([*heading, text])


def _escaped(value: Any) -> Any:
    """Plain data whose texts Hydra reads as they are here."""
    if isinstance(value, str):
        return without_interpolations(value)
    if isinstance(value, Mapping):
        return {key: _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list | tuple) else value


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """What a search came to, in sentences."""
    metric, best, test = summary["metric"], summary["best"], summary["test"]
    trials = summary["trials"]
    counts = ", ".join(f"{n} {status}" for status, n in trials.items() if status != "all")
    lines = [
        f"{trials['all']} trials ({counts}), {summary['training_tasks']:,} training tasks.",
        f"The best is trial {best['number']}: validation {metric} {best['score']:.4f} ± "
        f"{best['ci95']:.4f} after {best['of_step']} outer steps. It was chosen by this number, "
        "which is therefore too good.",
    ]
    if alike := best["not_told_apart"]:
        numbers = ", ".join(map(str, alike))
        lines.append(
            "On the same validation tasks it does not differ significantly from "
            f"trial{'s' if len(alike) > 1 else ''} {numbers} (95%, pairwise)."
        )
    if test is not None and "failure" in test:
        lines.append(f"It could not be evaluated on test tasks: {test['failure']}")
    elif test is not None:
        found = test["evaluation"]
        model = model_text(found["model"], found["num_models"])
        lines.append(
            f"On {found['num_tasks']} test tasks, evaluated once: {_score_in_words(metric, found)} "
            f"(transductive, {test['of']}, {model}, chosen from {trials['all']} trials)."
        )
        lines += [
            f"On {each['num_tasks']} test tasks of {name}: {_score_in_words(metric, each)}."
            for name, each in test.get("other_tasks", {}).items()
        ]
    return lines


def _score_in_words(metric: str, evaluation: Mapping[str, Any]) -> str:
    curve = evaluation["transductive"]
    return f"{metric} {curve['mean'][-1]:.4f} ± {curve['ci95'][-1]:.4f}"


def _tested_run(
    config: RunConfig, best: TrialRow, options: SearchOptions, place: RunPlace
) -> RunConfig:
    """Settings of the run that is evaluated: the trial's own, or those of a new training."""
    assert best.run_dir is not None
    changes = {}
    if options.final_steps is not None:
        changes["steps"] = options.final_steps
    if options.final_seed is not None:
        changes["seed"] = options.final_seed
    if changes:
        return dataclasses.replace(placed(config, place.locate(FINAL)), **changes)  # type: ignore[arg-type]
    return dataclasses.replace(placed(config, best.run_dir), resume=True)


def _tested(
    config: RunConfig, best: TrialRow, setup: TrialSetup, bundles: list[Bundle]
) -> dict[str, Any]:
    """Evaluate a run on test tasks, where a trial would be; what results.json has of it."""
    of = f"trial {best.number}" if config.run_dir == best.run_dir else "a new training"
    found = {"of": f"{of}, {config.steps} outer steps", "run_dir": config.run_dir}
    group = placement_group(bundles)
    remote = ray.remote(evaluate_trial).options(
        num_cpus=bundles[0].get("CPU", 0),
        num_gpus=bundles[0].get("GPU", 0),
        max_retries=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        ),
    )
    try:
        tests: Any = ray.get(remote.remote(config, setup))
    except TrainingStopped as error:
        return {**found, "failure": str(error)}
    finally:
        remove_placement_group(group)
    others = {name: as_plain(each) for name, each in tests.others.items()}
    return {**found, "evaluation": as_plain(tests.test), "other_tasks": others}


def _summary(
    rows: Sequence[TrialRow], best: TrialRow, config: RunConfig, metric: Declaration
) -> dict[str, Any]:
    counts = Counter(row.status for row in rows)
    # Trials of the same settings are the same run.
    runs = {row.run_dir: row for row in rows}.values()
    return {
        "format": 1,
        "metric": metric.name,
        DECLARED: [as_plain_metric(metric)],
        "trials": {"all": len(rows), **counts},
        "best": {
            "number": best.number,
            "point": dict(best.point),
            "score": best.score,
            "ci95": best.ci95,
            "of_step": best.of_step,
            "run_dir": best.run_dir,
            "not_told_apart": not_told_apart(rows, best, metric.direction),
        },
        "training_tasks": sum(row.tasks for row in runs),
        "seconds": sum(row.seconds for row in runs),
        "settings": config.as_mapping(),
        "versions": versions(),
        "hardware": hardware(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
