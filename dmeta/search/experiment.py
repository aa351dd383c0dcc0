"""A search, from its space to its results: sets up Ray Tune and runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.tune import ResultGrid
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from torch import nn

from dmeta.addresses import is_address, local_path
from dmeta.bilevel.types import Loss
from dmeta.metrics.metric import Metric
from dmeta.runs.folder import RunPlace, run_place, training_at
from dmeta.runs.layout import SEARCH, TRIALS
from dmeta.runs.lock import only_one_in
from dmeta.runtime.cluster import connect
from dmeta.search.finalize import WriteReport, conclude
from dmeta.search.interrupts import SearchStopped, environment, quiet, stopping
from dmeta.search.options import SearchOptions
from dmeta.search.resources import Bundle, reservation
from dmeta.search.search_state import (
    SEARCH_FILES,
    TRIED,
    check_begun,
    forget_course,
    forget_marks,
    read_search,
    record_of,
)
from dmeta.search.shared_storage_check import alive_nodes, check_seen, read_by_tasks
from dmeta.search.space import Choice, Dimension, Interval, Space, Value
from dmeta.search.space_check import checked_search
from dmeta.search.trial import TrialSetup
from dmeta.search.tune_callback import Watch, Watcher
from dmeta.search.tuner import SearchSetup
from dmeta.search.user_objects import Configure, Named, Own
from dmeta.tasks.augmentation.augment import ImageTransform
from dmeta.tasks.source import TaskSource
from dmeta.training.config import RunConfig, run_config
from dmeta.training.results import write_json
from dmeta.training.run import Draw


def run(
    config: RunConfig,
    space: Space | Mapping[str, Dimension | Sequence[Value]],
    options: SearchOptions | None = None,
    *,
    run_dir: Path | str,
    resume: bool = False,
    configure: Configure | None = None,
    searcher: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
    watchers: Sequence[Watcher] = (),
    notes: Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    algorithm: Any = None,
    loss: Loss | None = None,
    metrics: Sequence[str | Metric] | None = None,
    augment: ImageTransform | None = None,
    draw: Draw | None = None,
    report: WriteReport | None = None,
) -> ResultGrid:
    """Search the settings of a run, and evaluate the best ones on test tasks.

    Writes into `run_dir`: ``trials.csv``; ``best.yaml``, ``results.json`` and what `report` writes
    once it is through; the runs of the trials under ``trials/``; and what Tune keeps, TensorBoard's
    HParams among it, under ``tune/``.

    Args:
        config: settings of a trial, but for what is searched; its runtime is that of each trial.
        space: what is searched: dotted keys of the settings, with the values that each may take.
        options: how.
        run_dir: where to write, a path or an address; every node of the cluster sees it, which is
            checked.
        resume: go on with the search that is there, of the same arguments; it is extended if
            ``options.num_trials`` or ``config.steps`` is larger than it was.
        configure: makes settings of a point; None: as `config`, with the point's values in it.
        searcher: one of Tune's own instead of what ``search.sampler`` names: an `OptunaSearch`,
            say, whose study is then at hand.
        scheduler: one of Tune's own instead of what ``search.scheduler`` names.
        watchers: called as the search progresses.
        notes: kept with it, in search.json.
        model: your own `nn.Module` in every trial instead of the named model; picklable, as the
            next three.
        source: your own `dmeta.tasks.source.TaskSource` instead of the named task.
        algorithm: your own method instead of the named one, as for `dmeta.train`.
        loss: your own loss instead of the named one.
        metrics: instead of ``eval.metrics``, as for `dmeta.train`.
        augment: your own augmentation of training images, as for `dmeta.train`.
        draw: draws the run of the best settings if that is trained again, such as
            `dmeta.reports.run_report.draw_run`.
        report: writes a page, such as `dmeta.reports.search_report.report_search`.

    Returns: Tune's own results: every trial with its reports, checkpoint and error.

    Raises:
        ValueError: whatever is wrong with the arguments, before anything is started or written.
        SearchStopped: by SIGINT or SIGTERM, in the main thread.
    """
    options = options or SearchOptions()
    own = Own(model, source, algorithm, loss, metrics, augment)
    space = space if isinstance(space, Space) else space_of(space)
    where = run_dir if is_address(run_dir) else local_path(run_dir).absolute()
    configure = Named(configure or Changed(config), own.names, metrics)
    for watcher in watchers:
        watcher.on_phase("trying the ends of the space")
    found = checked_search(space, configure, own)
    record = record_of(space, options, found.base, own)
    with run_place(where, SEARCH_FILES) as place:
        search = SearchSetup(place, space, options, configure, own, found, searcher, scheduler)
        search.sampling()
        search.scheduling()
        is_extended = check_begun(place, resume, record)
        with (
            _connected(found.base, options, place.name) as bundles,
            training_at(place),
            only_one_in(place.folder),
        ):
            own.check_on_cluster()
            check_seen(place.name, alive_nodes(), read_by_tasks)
            search = dataclasses.replace(search, tried=_tried(place, resume, is_extended))
            _write_record(search, record, notes or {})
            return _carried_out(search, bundles, resume, watchers, draw, report)


def _write_record(search: SearchSetup, record: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Write what the search is, and that it has begun here."""
    place = search.place
    (place.folder / TRIALS).mkdir(exist_ok=True)
    beginning = {"mode": search.mode, "host": socket.gethostname(), TRIED: search.tried}
    write_json(place.folder / SEARCH, {**record, **beginning, **notes})
    place.push()


def _carried_out(
    search: SearchSetup,
    bundles: list[Bundle],
    resume: bool,
    watchers: Sequence[Watcher],
    draw: Draw | None,
    report: WriteReport | None,
) -> ResultGrid:
    """Try the points, and conclude.

    Args:
        search: what is searched, and how.
        bundles: that a trial reserves.
        resume: whether to go on with what is there.
        watchers: called as the search progresses.
        draw: draws the run of the best settings if that is trained again.
        report: writes a page of what was found.
    """
    place, configure = search.place, search.configure
    sources = {key: ray.put(source) for key, source in search.found.sources.items()}
    own = dataclasses.replace(search.own, source=None)
    setup = TrialSetup(configure, place.locate(TRIALS), sources, Path.cwd(), own, draw)
    watch = Watch(search.space, configure, search.mode, place, watchers)
    switches = environment(TUNE_DISABLE_SIGINT_HANDLER="1", RAY_AIR_NEW_OUTPUT="0")
    with switches, quiet(), stopping() as heard, _seeded(search.options.seed):
        results = search.tuner(setup, bundles, watch, resume).fit()
    forget_marks(place)
    if heard:
        raise SearchStopped(heard[0])
    watch.take()
    conclude(search, watch, setup, bundles, watchers, report)
    return results


def _tried(place: RunPlace, resume: bool, is_extended: bool) -> list[Any]:
    """Points of the search before it was extended; of one that is extended now all it tried."""
    if is_extended:
        return forget_course(place)
    return list(read_search(place).get(TRIED, [])) if resume else []


def space_of(space: Mapping[str, Dimension | Sequence[Value]]) -> Space:
    """A space of dimensions, or of plain lists of values."""
    return Space(
        {k: d if isinstance(d, Choice | Interval) else Choice(tuple(d)) for k, d in space.items()}
    )


@dataclasses.dataclass(frozen=True)
class Changed:
    """Settings with a point's values in them; for keys with dots alone.

    A key without one names a choice of settings (``algorithm``), which are composed by Hydra: see
    `dmeta.tune`.
    """

    config: RunConfig

    def __call__(self, point: Mapping[str, Value]) -> RunConfig:
        """The settings of a point.

        Raises:
            ValueError: a key or value that there is not.
        """
        settings = self.config.as_mapping()
        for key, value in point.items():
            group, _, name = key.rpartition(".")
            if group not in settings and key not in ("seed", "meta_batch_size", "loss"):
                raise ValueError(
                    f"'{key}' must be a key of a group (algorithm.inner_lr), or seed, "
                    "meta_batch_size or loss; dmeta.tune searches choices of a group, too"
                )
            (settings[group] if group else settings)[name] = value
        return run_config(settings)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Tune's schedulers and samplers draw from the global generators where they take no seed."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


@contextlib.contextmanager
def _connected(config: RunConfig, options: SearchOptions, run_dir: str) -> Iterator[list[Bundle]]:
    """Be in the cluster that the settings name, and leave it as it was.

    Yields what a trial reserves there.
    """
    runtime = config.runtime
    if not connect.joins_existing(runtime.address):
        reservation(config, options.cpus_per_driver, [connect.this_machine()])
    # No logs of many trials at once; what matters of them is in the table.
    go_on = (
        "the work of its trials is kept: continue with "
        f"dmeta tune {shlex.quote(f'run_dir={run_dir}')} resume=true"
    )
    with connect.connected(runtime, shows_logs=False, go_on=go_on):
        yield reservation(config, options.cpus_per_driver, connect.nodes_for_workers())
