"""A search as Ray Tune is given it: sampling, scheduling, storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from dmeta.addresses import open_arrow
from dmeta.runs.folder import RunPlace
from dmeta.runs.layout import TUNE
from dmeta.search.options import SearchOptions
from dmeta.search.resources import Bundle
from dmeta.search.sampling import Sampling, domains_of, sampling_of
from dmeta.search.scheduling import SCORE, scheduler_of
from dmeta.search.search_state import can_go_on
from dmeta.search.space import Space, Value
from dmeta.search.space_check import Checked
from dmeta.search.trial import TrialSetup, run_trial, settings_digest
from dmeta.search.trial_reports import ScoreMode
from dmeta.search.tune_callback import Watch
from dmeta.search.user_objects import Configure, Own

_CHECKPOINTS = 3  # that Tune keeps of a trial, and those of one exchange


@dataclasses.dataclass(frozen=True)
class SearchSetup:
    """What is searched, and how.

    Attributes:
        place: of the search.
        space: that is searched.
        options: how.
        configure: makes settings of a point.
        own: the user's own objects.
        found: what trying the ends of the space has shown.
        searcher: the user's own, instead of what the options name.
        scheduler: likewise.
        tried: points of the search before it was extended.
    """

    place: RunPlace
    space: Space
    options: SearchOptions
    configure: Configure
    own: Own
    found: Checked
    searcher: Searcher | None
    scheduler: TrialScheduler | None
    tried: Sequence[Any] = ()

    @property
    def mode(self) -> ScoreMode:
        """Which way scores are better."""
        return self.found.metric.direction

    def sampling(self) -> Sampling:
        """What chooses the points, and how many."""
        if self.searcher is not None:
            num_samples = self.options.num_trials or 1
            return Sampling(domains_of(self.space), self.searcher, num_samples)
        return sampling_of(self.space, self.options, SCORE, self.mode, self._digest, self.tried)

    def scheduling(self) -> TrialScheduler:
        """What ends or pauses trials."""
        if self.scheduler is not None:
            return self.scheduler
        base, folder = self.found.base, self.place.locate(TUNE)
        return scheduler_of(self.space, self.options, base, self.mode, folder)

    def tuner(
        self, setup: TrialSetup, bundles: list[Bundle], watch: Watch, resume: bool
    ) -> tune.Tuner:
        """Ray Tune's own object: a new one, or the one that is there.

        Args:
            setup: what all trials share.
            bundles: that a trial reserves.
            watch: called by Tune with every report.
            resume: whether to go on with what is there.
        """
        trainable: Any = tune.with_resources(
            tune.with_parameters(run_trial, setup=setup), tune.PlacementGroupFactory(bundles)
        )
        if resume and can_go_on(self.place):
            files, root = self._storage()
            tuner = tune.Tuner.restore(f"{root}/{TUNE}", trainable, storage_filesystem=files)
            restored: Any = tuner._local_tuner
            restored.get_run_config().callbacks = [watch]
            return tuner
        if resume:
            self.place.remove_folder(TUNE)  # of a search that was killed at its start
        sampling = self.sampling()
        return tune.Tuner(
            trainable,
            param_space=sampling.param_space,
            tune_config=self._tune_config(sampling),
            run_config=self._run_config(watch),
        )

    def _tune_config(self, sampling: Sampling) -> tune.TuneConfig:
        return tune.TuneConfig(
            metric=SCORE,
            mode=self.mode,
            search_alg=sampling.searcher,
            scheduler=self.scheduling(),
            num_samples=sampling.num_samples,
            max_concurrent_trials=self.options.max_concurrent,
            time_budget_s=self.options.budget_s,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        )

    def _run_config(self, watch: Watch) -> tune.RunConfig:
        # In a population others may go on from a checkpoint until the exchange after the next.
        every = self.found.base.validation_every
        kept = _CHECKPOINTS + (self.options.perturb_every or every) // every
        files, root = self._storage()
        return tune.RunConfig(
            name=TUNE,
            storage_path=root,
            storage_filesystem=files,
            failure_config=tune.FailureConfig(max_failures=self.options.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=kept),
            callbacks=[watch],
            verbose=0,
        )

    def _storage(self) -> tuple[Any, str]:
        """Where Tune keeps what it does: pyarrow's file system (None: the disk), and a path."""
        if self.place.mirror is None:
            return None, str(self.place.folder)
        return open_arrow(self.place.name, "run_dir")

    def _digest(self, point: Mapping[str, Value]) -> str:
        return settings_digest(self.configure(point))


def _name(trial: Any) -> str:
    return str(trial.trial_id)
