"""What a search comes to: the best settings, what they are worth on test tasks, and the report.

``results.json`` of a search: ``format``; ``metric``; ``trials`` (how many, by status);
``best`` (number, point, validation score with its 95% confidence interval, steps, the folder of its
run, and which other trials can not be told from it on the validation tasks); ``test`` (an
`Evaluation` on test tasks, of the one model that was chosen, and the run it is of) or null;
``training_tasks`` (of all trials); ``seconds`` (of all trials, added up); ``space``; ``search``;
``settings`` (of the best); ``versions``; ``hardware``; ``finished`` (UTC).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dmeta.search.figures import search_figures
from dmeta.search.histories import events_of
from dmeta.search.kept import TUNE
from dmeta.search.options import SearchOptions
from dmeta.search.page import write_page
from dmeta.search.reports import Mode
from dmeta.search.space import Space
from dmeta.search.trial import Configure, open_runtime, ready
from dmeta.search.trials import TrialRow, not_told_apart
from dmeta.search.watching import Watch, Watcher
from dmeta.training.config import RunConfig
from dmeta.training.evaluation import Evaluation, as_plain
from dmeta.training.results import hardware, versions, write_json
from dmeta.training.session import run_session

RESULTS, PRESET, PAGE = "results.json", "best.yaml", "report.html"

_NOT_IN_PRESETS = ("run_dir", "resume", "runtime", "checkpoint", "device", "joint_baseline")
_GROUPS = ("algorithm", "gradient", "model", "task")


def conclude(
    run_dir: Path,
    watch: Watch,
    space: Space,
    options: SearchOptions,
    configure: Configure,
    mode: Mode,
    watchers: Sequence[Watcher],
) -> None:
    """Evaluate the best trial on test tasks, once, and write what was found.

    Args:
        run_dir: of the search.
        watch: has the trials.
        space: that was searched.
        options: of the search.
        configure: makes settings of a point.
        mode: which way scores are better.
        watchers: told what is done.

    Raises:
        RuntimeError: no trial has a score.
    """
    rows, ranked = watch.rows, watch.ranked
    if not ranked:
        errors = sorted({row.error for row in rows if row.error})
        raise RuntimeError(
            f"no trial of {len(rows)} has come to a validation score; "
            + (f"the first error: {errors[0]}" if errors else "all diverged, or time ran out")
        )
    best = ranked[0]
    config = configure(dict(best.point))
    preset = preset_of(config, best, len(rows))
    (run_dir / PRESET).write_text(preset)
    test, tested = None, None
    if options.evaluate_best:
        tested = _tested_run(config, best, options, run_dir)
        test = _evaluated(tested, watchers)
    summary = _summary(rows, best, config, mode, test, tested)
    summary["space"] = {key: str(dimension) for key, dimension in space.every_dimension()}
    summary["search"] = dataclasses.asdict(options)
    write_json(run_dir / RESULTS, summary)
    for watcher in watchers:
        watcher.on_phase("drawing figures")
    metric = summary["metric"]
    events = events_of(rows, run_dir / TUNE)
    pictures = search_figures(rows, best, events, space, metric, mode, run_dir / "figures")
    others = [row for row in rows if row not in ranked]
    title = f"{config.algorithm.name} on {config.task.source.name}: {len(rows)} trials"
    searched = space.searched()
    lines = in_words(summary)
    page = run_dir / PAGE
    write_page(page, title, lines, [*ranked, *others], best, searched, pictures, preset)


def preset_of(config: RunConfig, best: TrialRow, num_trials: int) -> str:
    """The best settings as a Hydra experiment, complete in itself.

    Args:
        config: settings of the best trial.
        best: the trial.
        num_trials: it was chosen from.
    """
    settings = {k: v for k, v in config.as_mapping().items() if k not in _NOT_IN_PRESETS}
    deciding = {"block_size": config.runtime.block_size}
    defaults = [{f"override /{group}": settings[group]["name"]} for group in _GROUPS]
    defaults.append({"override /outer": config.outer.name})
    content = {"defaults": defaults, **settings, "runtime": deciding}
    score = f"{best.score:.4f} ± {best.ci95:.4f}"
    heading = (
        "# @package _global_\n"
        f"# The best of {num_trials} trials of `dmeta tune`: trial {best.number}, validation "
        f"score {score}\n# after {best.step} outer steps, on {config.eval.val_tasks} tasks.\n"
    )
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return heading + text


def in_words(summary: dict[str, Any]) -> list[str]:
    """What a search came to, in sentences."""
    metric, best, test = summary["metric"], summary["best"], summary["test"]
    trials = summary["trials"]
    counts = ", ".join(f"{n} {status}" for status, n in trials.items() if status != "all")
    lines = [
        f"{trials['all']} trials ({counts}), {summary['training_tasks']:,} training tasks.",
        f"The best is trial {best['number']}: validation {metric} {best['score']:.4f} ± "
        f"{best['ci95']:.4f} after {best['step']} outer steps. It was chosen by this number, "
        "which is therefore too good.",
    ]
    if alike := best["not_told_apart"]:
        numbers = ", ".join(map(str, alike))
        lines.append(
            "On the same validation tasks it can not be told from "
            f"trial{'s' if len(alike) > 1 else ''} {numbers} (95%, pairwise)."
        )
    if test is not None:
        curve = test["evaluation"]["transductive"]
        lines.append(
            f"On {test['evaluation']['num_tasks']} test tasks, evaluated once: {metric} "
            f"{curve['mean'][-1]:.4f} ± {curve['ci95'][-1]:.4f} (transductive, {test['of']}, one "
            f"model, chosen from {trials['all']} trials)."
        )
    return lines


def _tested_run(
    config: RunConfig, best: TrialRow, options: SearchOptions, run_dir: Path
) -> RunConfig:
    """Settings of the run that is evaluated: the trial's own, or one that is trained anew."""
    assert best.run_dir is not None
    anew = {}
    if options.final_steps is not None:
        anew["steps"] = options.final_steps
    if options.final_seed is not None:
        anew["seed"] = options.final_seed
    place = str(run_dir / "final") if anew else best.run_dir
    return dataclasses.replace(config, **anew, run_dir=place, resume="auto")  # type: ignore[arg-type]


def _evaluated(config: RunConfig, watchers: Sequence[Watcher]) -> Evaluation:
    assert config.run_dir is not None
    place = Path(config.run_dir)
    for watcher in watchers:
        watcher.on_phase(f"evaluating the best on {config.eval.num_tasks} test tasks")
    return run_session(ready(config), place, open_runtime, []).test


def _summary(
    rows: Sequence[TrialRow],
    best: TrialRow,
    config: RunConfig,
    mode: Mode,
    test: Evaluation | None,
    tested: RunConfig | None,
) -> dict[str, Any]:
    counts = Counter(row.status for row in rows)
    evaluated = None
    if test is not None and tested is not None:
        of = "trained anew" if tested.run_dir != best.run_dir else f"trial {best.number}"
        evaluated = {
            "of": f"{of}, {tested.steps} outer steps",
            "run_dir": tested.run_dir,
            "evaluation": as_plain(test),
        }
    return {
        "format": 1,
        "metric": "accuracy" if mode == "max" else "mse",
        "trials": {"all": len(rows), **counts},
        "best": {
            "number": best.number,
            "point": dict(best.point),
            "score": best.score,
            "ci95": best.ci95,
            "step": best.step,
            "run_dir": best.run_dir,
            "not_told_apart": not_told_apart(rows, best, mode),
        },
        "test": evaluated,
        "training_tasks": sum(row.tasks for row in rows),
        "seconds": sum(row.seconds for row in rows),
        "settings": config.as_mapping(),
        "versions": versions(),
        "hardware": hardware(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
