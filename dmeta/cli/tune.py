"""`dmeta tune` and `dmeta.tune`: search the settings of a run with Ray Tune."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from dmeta.addresses import is_address, local_path
from dmeta.bilevel.types import Loss
from dmeta.cli.errors import explained
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.settings.planned_search import fixed_of, is_of_search, planned_search
from dmeta.cli.settings.presets import named, own_presets
from dmeta.cli.settings.sweeps import Composer, first_choices, split_overrides
from dmeta.cli.settings.trust import KEY, trust_word, trusting, trusts
from dmeta.cli.settings.user_source import defaults_for, refuse_ignored
from dmeta.cli.single_run import alone_in_process
from dmeta.cli.terminal.tune_display import TuneDisplay
from dmeta.metrics.metric import Metric
from dmeta.quoting import TEXT_KEYS, override_word, overrides_of
from dmeta.reports.run_report import draw_run
from dmeta.reports.search_report import report_search
from dmeta.runs.folder import RunPlace, check_folder, run_place
from dmeta.runs.layout import PAGE, PRESET, RESULTS, SEARCH, TRIALS_TABLE
from dmeta.search import ResultGrid, SearchOptions, Space
from dmeta.search.experiment import run as run_search
from dmeta.search.finalize import summary_lines
from dmeta.search.search_state import NO_SEARCH, read_search
from dmeta.search.space import Dimension
from dmeta.search.space_check import check_search_without_data
from dmeta.search.tune_callback import Watcher
from dmeta.tasks.augmentation.augment import ImageTransform
from dmeta.tasks.in_memory import Arrays, source_of
from dmeta.tasks.source import TaskSource
from dmeta.training.config import RunConfig

_PER_CALL = ("run_dir", "resume", "runtime.address", "runtime.allow_unauthenticated", KEY)
"""Keys that the command line alone says when a search is continued."""

_MORE = ("search.num_trials", "steps")
"""Keys that extend the search that is there."""

_SEVERAL = re.compile(r"(choice|range|interval|glob|tag|sort|shuffle|int|float)\(")
"""How a text begins, in settings from Python, that is a sweep."""


class Search(NamedTuple):
    """A search as it was asked for.

    Attributes:
        overrides: all of them, what is searched among them.
        config: settings of the first point.
        space: what is searched.
        options: how.
        composer: makes settings of a point.
        run_dir: where to write, a path or an address.
        resume: whether to go on.
    """

    overrides: list[str]
    config: RunConfig
    space: Space
    options: SearchOptions
    composer: Composer
    run_dir: str
    resume: bool


@alone_in_process("dmeta.tune")
def tune(
    settings: Mapping[str, Any] | Sequence[str] = (),
    *,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    data: Arrays | None = None,
    algorithm: Any = None,
    loss: Loss | None = None,
    metrics: Sequence[str | Metric] | None = None,
    augment: ImageTransform | None = None,
    watchers: Sequence[Watcher] = (),
    trust: bool = False,
) -> ResultGrid:
    """Search the settings of a run.

    Args:
        settings: as for `dmeta.train`; a key with several values, in Hydra's sweep syntax, is
            searched: ``["task=sinusoid", "outer.lr=tag(log,interval(1e-4,1e-2))"]``. In a mapping
            that is a text which begins with a function of that syntax: ``{"outer.lr":
            "choice(0.001,0.01)"}``; every other value is taken as it is.
        model: your own `nn.Module` in every trial instead of the named model, as for `dmeta.train`;
            likewise the next four. They must be picklable: what is defined in a script or a
            notebook is sent to the trials by value.
        source: your own task source instead of the named task.
        data: arrays instead of a source, as for `dmeta.train`.
        algorithm: your own method instead of the named one.
        loss: your own loss instead of the named one.
        metrics: instead of ``eval.metrics``, as for `dmeta.train`.
        augment: your own augmentation of training images, as for `dmeta.train`.
        watchers: called as the search progresses.
        trust: as for `dmeta.train`.

    Returns: Tune's own results (every trial, with its reports, checkpoint and error); what else
        was found is in the search's folder (`dmeta.search.run`).

    Raises:
        ValueError: whatever is wrong with the settings, before anything is started or written.
    """
    if isinstance(settings, Mapping):
        settings = _overrides_of(settings)
    settings = [*settings, *trusting(trust)]
    own = {
        "model": model,
        "source": source_of(source, data),
        "algorithm": algorithm,
        "loss": loss,
        "metrics": metrics,
        "augment": augment,
    }
    with explained("tune", settings):
        search = _search_from_python(settings, own)
        return _run(search, watchers, own)


def _search_from_python(settings: Sequence[str], own: Mapping[str, Any]) -> Search:
    fixed, space = split_overrides(settings)
    refuse_ignored(fixed, own)
    chosen: list[str] = []
    if (source := own["source"]) is not None:
        words = [each for each in (*fixed, *first_choices(space)) if not is_of_search(each)]
        has_network = own["model"] is not None or hasattr(own["algorithm"], "network")
        chosen = defaults_for(source, words, has_network=has_network)
        fixed = [*chosen, *fixed]
    presets = own_presets(fixed)
    composed = compose("tune", [*fixed, *first_choices(space)], presets=presets)
    return _search_of(composed, fixed, space, list(settings), presets, chosen)


def tune_command(
    settings: dict[str, Any],
    overrides: list[str],  # noqa: ARG001 - a verb's
    space: Mapping[str, Dimension],
    arguments: Sequence[str],
) -> None:
    """The verb: search with a live table, then say what was found and written."""
    search = _asked_for(settings, space, arguments)
    with TuneDisplay(_title(search), search.options, search.space.searched()) as display:
        try:
            _run(search, [display], {})
        except KeyboardInterrupt as stop:
            stop.add_note(_go_on_with(search))
            raise
    with run_place(search.run_dir, [RESULTS]) as place:
        display.conclude(
            summary_lines(json.loads((place.folder / RESULTS).read_text())),
            [place.locate(name) for name in (PRESET, PAGE, TRIALS_TABLE, RESULTS)],
            f"dmeta train {override_word('experiment', place.locate(PRESET))}"
            + trust_word({**search.config.as_mapping(), "checkpoint": {}}, search.run_dir),
        )


def check_command(
    settings: dict[str, Any],
    overrides: list[str],  # noqa: ARG001 - a verb's
    space: Mapping[str, Dimension],
    arguments: Sequence[str],
) -> None:
    """Check what of the verb can be checked where its data, run_dir and cluster are not.

    Raises:
        ValueError: whatever is wrong with the settings or the space.
    """
    search = _asked_for({**settings, "resume": False}, space, arguments)
    continues = settings["resume"] is True or (settings["resume"] == "auto" and not search.space)
    if continues:  # then the search has its space, which is not here
        return
    search.composer.check(search.space)
    check_search_without_data(search.space, search.composer)


def _asked_for(
    settings: Mapping[str, Any], space: Mapping[str, Dimension], arguments: Sequence[str]
) -> Search:
    """The search that a command line asks for."""
    given = [a for a in arguments if "=" in a and not a.startswith("-")]
    fixed = fixed_of(arguments, space)
    return _search_of(settings, fixed, space, given, own_presets(arguments))


def _run(search: Search, watchers: Sequence[Watcher], own: Mapping[str, Any]) -> ResultGrid:
    if not is_address(search.run_dir):
        check_folder(local_path(search.run_dir), "run_dir")
    search.composer.check(search.space)
    return run_search(
        search.config,
        search.space,
        search.options,
        run_dir=search.run_dir,
        resume=search.resume,
        configure=search.composer,
        watchers=watchers,
        notes={"command": search.overrides, "presets": dict(search.composer.presets)},
        draw=draw_run,
        report=report_search,
        **own,
    )


def _search_of(
    settings: Mapping[str, Any],
    fixed: Sequence[str],
    space: Mapping[str, Dimension],
    given: Sequence[str],
    presets: Mapping[str, str],
    chosen: Sequence[str] = (),
) -> Search:
    """The search that the command line asks for, or the one that is there and is continued.

    `chosen` is what a search that is new has besides the words that were `given`.
    """
    run_dir, resume = settings["run_dir"] or _new_run_dir(settings), settings["resume"] is True
    there = None
    if settings["resume"]:
        with run_place(run_dir, [SEARCH]) as place:
            if (place.folder / SEARCH).exists():
                resume, there = True, _continued(place, given)
            elif resume:
                raise ValueError(NO_SEARCH.format(place.name))
    if there is None:
        given = [*chosen, *given]
    else:
        given, presets = there
        fixed, space = split_overrides(given)
        settings = compose("tune", [*fixed, *first_choices(space)], presets=presets)
    plan = planned_search(settings, fixed, space, presets)
    return Search(
        list(given), plan.config, plan.space, plan.options, plan.composer, run_dir, resume
    )


def _continued(place: RunPlace, given: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
    """What the search that is there was asked for with, and the user's presets of that time."""
    there = read_search(place)
    command, presets = there.get("command"), there.get("presets")
    if not (isinstance(command, list) and all(isinstance(each, str) for each in command)):
        raise ValueError(
            f"a search that `dmeta tune` continues must have been begun by it, got {place.name} "
            "without a command; continue it from Python (dmeta.search.run)"
        )
    per_call = _of(given, _PER_CALL)
    more = {each.partition("=")[0]: each for each in _of(given, _MORE)}
    begun = [each for each in command if each not in _of(command, _PER_CALL)]
    own = [each for each in begun if each.partition("=")[0] not in more]
    rest = [each for each in given if each not in per_call and each not in more.values()]
    # A file lies elsewhere in a job that was submitted; its text is the one that was kept.
    other = [each for each in map(named, rest) if each not in map(named, own)]
    if rest and (other or len(rest) != len(own)):
        raise ValueError(
            "a search that is continued has its settings in its folder, got "
            f"{(other or rest)[0]} besides; leave it out (search.num_trials and steps may be "
            "raised), or choose another run_dir"
        )
    return [*own, *more.values(), *per_call], presets if isinstance(presets, dict) else {}


def _of(overrides: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The overrides of some keys."""
    return [each for each in overrides if each.partition("=")[0] in keys]


def _title(search: Search) -> list[str]:
    config, options = search.config, search.options
    how = options.sampler if options.scheduler == "none" else f"{options.sampler}, then "
    how += "" if options.scheduler == "none" else options.scheduler
    trials = "every point" if options.num_trials is None else f"{options.num_trials} trials"
    where = "in one process"
    if config.runtime.name != "local":
        where = f"on {config.runtime.num_workers} workers"
    return [
        f"{how}: {trials} of {config.algorithm.name} on {config.task.source.name}, "
        f"{config.steps} outer steps each, {where}",
        *(f"  {key}={dimension}" for key, dimension in search.space.every_dimension()),
        f"writing to {search.run_dir}",
    ]


def _overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """Those of a mapping: values as they are, but what `_SEVERAL` begins is searched."""
    sweeps = {
        key: value
        for key, value in settings.items()
        if key not in TEXT_KEYS and isinstance(value, str) and _SEVERAL.match(value)
    }
    fixed = overrides_of({key: value for key, value in settings.items() if key not in sweeps})
    return [*fixed, *(f"{key}={value}" for key, value in sweeps.items())]


def _go_on_with(search: Search) -> str:
    """After an interruption; one before the first trial, while the space is tried, left nothing."""
    with run_place(search.run_dir, [SEARCH]) as place:
        if not (place.folder / SEARCH).exists():
            return "nothing was written; begin it again with the same command"
    words = [override_word("run_dir", search.run_dir), "resume=true"]
    return " ".join(["continue with: dmeta tune", *words, *trusting(trusts(search.overrides))])


def _new_run_dir(settings: Mapping[str, Any]) -> str:
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    return f"runs/tune_{settings['task']['name']}_{settings['algorithm']['name']}_{now}"
