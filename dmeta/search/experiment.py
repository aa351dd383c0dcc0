"""A search, from its space to its results: Tune does it, this sets it up."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune import ResultGrid

from dmeta.runtime import cluster
from dmeta.search.checking import Checked, checked_search
from dmeta.search.conclusion import conclude
from dmeta.search.options import SearchOptions
from dmeta.search.reports import mode_of
from dmeta.search.reservation import Bundle, reservation
from dmeta.search.sampling import sampling_of
from dmeta.search.scheduling import SCORE, scheduler_of
from dmeta.search.space import Choice, Dimension, Interval, Space, Value
from dmeta.search.trial import Configure, TrialSetup, digest_of, run_trial
from dmeta.search.trials import ranked_trials
from dmeta.search.watching import Watch, Watcher
from dmeta.training.config import RunConfig, run_config
from dmeta.training.results import write_json
from dmeta.training.run_lock import only_one_in

SEARCH, TABLE = "search.json", "trials.csv"
_TUNE, _TRIALS = "tune", "trials"
_CHECKPOINTS = 3  # that Tune keeps of a trial: others may be about to go on from one
_NOTICE = b"\nstopping; what the trials have done is kept; once more stops at once\n"


class SearchStopped(KeyboardInterrupt):
    """A search that was told to stop; its trials' checkpoints are kept.

    Attributes:
        signal_number: what told it.
    """

    def __init__(self, signal_number: int) -> None:
        """By a signal."""
        super().__init__("stopped the search; what its trials have done is kept")
        self.signal_number = signal_number


def run(
    config: RunConfig,
    space: Space | Mapping[str, Dimension | Sequence[Value]],
    options: SearchOptions | None = None,
    *,
    run_dir: Path | str,
    resume: bool = False,
    configure: Configure | None = None,
    watchers: Sequence[Watcher] = (),
    command: Sequence[str] = (),
) -> ResultGrid:
    """Search the settings of a run, and evaluate the best ones on test tasks.

    Writes into `run_dir`: ``trials.csv``; ``best.yaml``, ``results.json``, ``report.html`` and
    ``figures/`` once it is through; the runs of the trials under ``trials/``; and what Tune keeps,
    TensorBoard's HParams among it, under ``tune/``.

    Args:
        config: settings of a trial, but for what is searched; its runtime is that of each trial.
        space: what is searched: dotted keys of the settings, with the values that each may take.
        options: how.
        run_dir: where to write; every node of the cluster sees it.
        resume: go on with the search that is there, of the same arguments.
        configure: makes settings of a point; None: as `config`, with the point's values in it.
        watchers: told how it goes.
        command: how it was asked for; kept with it.

    Returns: Tune's own results: every trial with its reports, checkpoint and error.

    Raises:
        ValueError: whatever is wrong with the arguments, before anything is started or written.
        SearchStopped: by SIGINT or SIGTERM, in the main thread.
    """
    options = options or SearchOptions()
    space = space if isinstance(space, Space) else space_of(space)
    run_dir = Path(run_dir).absolute()
    configure = configure or Changed(config)
    for watcher in watchers:
        watcher.on_phase("trying the ends of the space")
    found = checked_search(space, configure)
    mode = mode_of(found.kind)
    sampling_of(space, options, SCORE, mode)
    scheduler_of(space, options, found.base, mode, run_dir / _TUNE)
    record = _record(space, options, found.base)
    _check_begun(run_dir, resume, record)
    with _connected(found.base, options) as bundles, only_one_in(run_dir):
        write_json(run_dir / SEARCH, {**record, "command": list(command)})
        by_best = found.base.eval.checkpoint != "last"
        rank = functools.partial(ranked_trials, mode=mode, by_best=by_best)
        watch = Watch(space, configure, rank, run_dir / TABLE, watchers)
        tuner = _tuner(run_dir, space, options, found, configure, watch, bundles)
        quiet = _environment(TUNE_DISABLE_SIGINT_HANDLER="1", RAY_AIR_NEW_OUTPUT="0")
        with quiet, _stopping() as heard:
            results = tuner.fit()
        if heard:
            raise SearchStopped(heard[0])
        watch.take()
        conclude(run_dir, watch, space, options, configure, mode, watchers)
    return results


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


def _tuner(
    run_dir: Path,
    space: Space,
    options: SearchOptions,
    found: Checked,
    configure: Configure,
    watch: Watch,
    bundles: list[Bundle],
) -> tune.Tuner:
    mode, folder = mode_of(found.kind), run_dir / _TUNE
    trials = run_dir / _TRIALS
    trials.mkdir(exist_ok=True)
    sources = {key: ray.put(source) for key, source in found.sources.items()}
    setup = TrialSetup(configure, trials, sources, Path.cwd())
    trainable: Any = tune.with_resources(
        tune.with_parameters(run_trial, setup=setup), tune.PlacementGroupFactory(bundles)
    )
    # Tune's schedulers and samplers draw from these where they take no seed.
    random.seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002
    if _can_go_on(folder):
        tuner = tune.Tuner.restore(str(folder), trainable)
        restored: Any = tuner._local_tuner
        restored.get_run_config().callbacks = [watch]
        return tuner
    shutil.rmtree(folder, ignore_errors=True)  # a search that was killed before its first trial
    sampling = sampling_of(space, options, SCORE, mode)
    return tune.Tuner(
        trainable,
        param_space=sampling.param_space,
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode=mode,
            search_alg=sampling.searcher,
            scheduler=scheduler_of(space, options, found.base, mode, folder),
            num_samples=sampling.num_samples,
            max_concurrent_trials=options.max_concurrent,
            time_budget_s=options.budget_s,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=_TUNE,
            storage_path=str(run_dir),
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_CHECKPOINTS),
            callbacks=[watch],
            verbose=0,
        ),
    )


def _name(trial: Any) -> str:
    return str(trial.trial_id)


@contextlib.contextmanager
def _connected(config: RunConfig, options: SearchOptions) -> Iterator[list[Bundle]]:
    """Be in the cluster that the settings name, and leave it as it was.

    Yields what a trial reserves there.
    """
    runtime = config.runtime
    if not cluster.joins_existing(runtime.address):
        reservation(config, options.cpus_per_driver, [cluster.this_machine()])
    ours = cluster.connect(
        runtime.address,
        allow_unauthenticated=runtime.allow_unauthenticated,
        dashboard=runtime.dashboard,
        shows_logs=False,  # of many trials at once; what matters of them is in the table
    )
    try:
        yield reservation(config, options.cpus_per_driver, cluster.nodes_for_workers())
    finally:
        if ours:
            ray.shutdown()


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables, for as long: Tune's switches that it has no arguments for."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _stopping() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM lets Tune end its trials and save, the second ends all at once.

    Yields where they are noted. Tune's own way to be told is SIGUSR1.
    """
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        heard.append(number)
        if len(heard) > 1:
            raise KeyboardInterrupt
        os.write(2, _NOTICE)
        signal.raise_signal(signal.SIGUSR1)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers[:2]:
        signal.signal(number, hear)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _record(space: Space, options: SearchOptions, base: RunConfig) -> dict[str, Any]:
    """What a search is of: to be the same when it is continued."""
    return {
        "format": 1,
        "space": _space_in_words(space),
        "search": dataclasses.asdict(options),
        "settings": base.as_mapping(),
        "sha256": digest_of(base),
    }


def _space_in_words(space: Space) -> dict[str, Any]:
    words: dict[str, Any] = {key: str(d) for key, d in space.dimensions.items()}
    return words | {c: _space_in_words(inner) for c, inner in space.conditions.items()}


def read_search(run_dir: Path) -> dict[str, Any]:
    """What is kept of a search: its space, its options, its settings, how it was asked for.

    Raises:
        ValueError: it is not readable.
    """
    path = run_dir / SEARCH
    try:
        content = dict(json.loads(path.read_text()))
        content["command"] = [str(each) for each in content["command"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} must be a search's settings, got {error!r}; restore it, or choose another "
            "run_dir"
        ) from None
    return content


def _check_begun(run_dir: Path, resume: bool, record: Mapping[str, Any]) -> None:
    path = run_dir / SEARCH
    if not path.exists():
        if resume:
            raise ValueError(
                f"resume=true must have a search in run_dir, got none in {run_dir}; correct run_dir"
            )
        return
    if not resume:
        raise ValueError(
            f"run_dir must be new, got {run_dir} with a search in it; add resume=true to go on "
            "with it, or choose another run_dir"
        )
    there = read_search(run_dir)
    changed = [key for key in ("space", "search", "sha256") if there.get(key) != record[key]]
    if changed:
        what = "settings" if changed[0] == "sha256" else changed[0]
        raise ValueError(
            f"run_dir must belong to this search, got {run_dir} of another {what}; give the same, "
            "or choose another run_dir"
        )
    _check_ours(run_dir / _TUNE)


def _check_ours(folder: Path) -> None:
    """Raises ValueError if others may have written there: Tune runs what it finds (pickles)."""
    for path in (folder.parent, folder, *(folder.glob("*") if folder.is_dir() else ())):
        if path.exists() and (path.stat().st_uid != os.geteuid() or path.stat().st_mode & 0o002):
            raise ValueError(
                "a search that is continued must be your own, for Ray Tune runs code that it finds "
                f"there, got {path}, which another user owns or anyone can write to; if you trust "
                "it, make it yours (chown, chmod o-w)"
            )


def _can_go_on(folder: Path) -> bool:
    return (folder / "tuner.pkl").exists() and any(folder.glob("experiment_state-*.json"))
