"""How a search is done: the plain options of the `search` config group. Knows no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dmeta.options import check_fields


@dataclass(frozen=True)
class SearchOptions:
    """How points are chosen, and which trials are cut.

    Attributes:
        sampler: where points come from: ``random`` draws, the whole ``grid``, ``optuna`` (TPE,
            Akiba et al. 2019, arXiv:1907.10902) or ``bohb`` (Falkner et al. 2018,
            arXiv:1807.01774).
        scheduler: which trials are stopped early. ``none``: no trial. ``asha``: those that can no
            longer be the best (Li et al. 2020, arXiv:1810.05934, with a confidence interval).
            ``hyperband``: that of ``bohb``. ``pbt``: the worst continue from the best, with other
            settings (Jaderberg et al. 2017, arXiv:1711.09846).
        seed: seed of the points.
        num_trials: number of trials; None: every point of a grid.
        max_concurrent: most trials at the same time; None: as many as there is room for.
        budget_s: seconds after which all trials stop; None: no bound.
        max_failures: how often a failed trial is retried, from its last checkpoint.
        cpus_per_driver: CPUs reserved for a trial's driver and parameter server, in addition to
            those of its workers; may be fractional. They wait while the workers compute.
        grace_steps: outer steps before a trial may be stopped; None: up to the first validation.
        reduction: ``asha`` and ``hyperband``: one trial in this many continues, to this many times
            the steps.
        keep_possible_best: ``asha`` does not stop a trial whose scores, task by task, are worse
            than those of the best so far by no more than chance (95%).
        perturb_every: ``pbt``: outer steps between exchanges; None: up to the first validation.
        exchanged: ``pbt``: share of the trials, the worst, that continue from as many best ones.
        evaluate_best: train the best trial to its last step, if it was stopped early, and evaluate
            it once on test tasks.
        final_steps: train the best settings again from the start for this many outer steps, and
            evaluate that.
        final_seed: train the best settings again from the start with this seed, and evaluate that.
    """

    sampler: Literal["random", "grid", "optuna", "bohb"] = "random"
    scheduler: Literal["none", "asha", "hyperband", "pbt"] = "none"
    seed: NonNegativeInt = 0
    num_trials: PositiveInt | None = 20
    max_concurrent: PositiveInt | None = None
    budget_s: PositiveFloat | None = None
    max_failures: NonNegativeInt = 2
    cpus_per_driver: NonNegativeFloat = 0.0
    grace_steps: PositiveInt | None = None
    reduction: Annotated[int, Field(ge=2)] = 3
    keep_possible_best: bool = True
    perturb_every: PositiveInt | None = None
    exchanged: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    evaluate_best: bool = True
    final_steps: PositiveInt | None = None
    final_seed: NonNegativeInt | None = None

    def __post_init__(self) -> None:
        """Refuses impossible numbers, and what does not go together."""
        check_fields(self, "search")
        if (self.sampler == "bohb") != (self.scheduler == "hyperband"):
            raise ValueError(
                "search.sampler=bohb and search.scheduler=hyperband must go together, got "
                f"search.sampler={self.sampler} search.scheduler={self.scheduler}; "
                "choose search=bohb, or change one of them"
            )
        if self.scheduler == "pbt" and self.sampler != "random":
            raise ValueError(
                "search.scheduler=pbt must have search.sampler=random, for it changes the points "
                f"itself, got search.sampler={self.sampler}; change one of them"
            )
        if self.num_trials is None and self.sampler != "grid":
            raise ValueError(
                "search.num_trials must be given unless search.sampler=grid, got null; set it"
            )
        self._check_final()

    def _check_final(self) -> None:
        if not self.evaluate_best and (self.final_steps or self.final_seed is not None):
            raise ValueError(
                "search.final_steps and search.final_seed must have search.evaluate_best=true, "
                "got false; change one of them"
            )
        if self.scheduler == "pbt" and (self.final_steps or self.final_seed is not None):
            raise ValueError(
                "the settings of a trial of pbt change while it trains: it cannot be trained "
                "again from the start, got search.final_steps or search.final_seed; remove them"
            )
