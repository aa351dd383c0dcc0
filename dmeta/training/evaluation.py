"""Evaluations: numbers that say what they are of.

`dmeta.training.summaries` makes them of the scores of tasks.

Letters: M evaluated tasks, K inner steps at evaluation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dmeta.metrics.declaration import Declaration
from dmeta.runs.progress import Ranking
from dmeta.tasks.source import Split
from dmeta.training.work.scores import MODES


@dataclass(frozen=True)
class Curve:
    """A metric after 0, 1, ..., K inner steps.

    Attributes:
        mean: over the tasks that it is defined for.
        ci95: half-width of the 95% confidence interval of the mean (`intervals.half_width`).
        non_finite: tasks that have a query prediction that is not finite; such a prediction counts
            as wrong, or makes the score NaN or infinite (`Declaration.non_finite`).
        undefined: tasks whose predictions are finite and that the metric is not defined for: not
            part of the mean. Empty: none.
    """

    mean: tuple[float, ...]
    ci95: tuple[float, ...]
    non_finite: tuple[int, ...] = ()
    undefined: tuple[int, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A metric after the last inner step.

    Attributes:
        mean: over the tasks that it is defined for.
        ci95: half-width of the 95% confidence interval of the mean.
        undefined: tasks that it is not defined for, which are not part of the mean.
    """

    mean: float
    ci95: float
    undefined: int = 0


@dataclass(frozen=True)
class Further:
    """A metric besides the primary one.

    Attributes:
        declared: what it is.
        transductive: as of `Evaluation`.
        non_transductive: likewise.
    """

    declared: Declaration
    transductive: Estimate
    non_transductive: Estimate


@dataclass(frozen=True)
class Evaluation:
    """What was evaluated, and how it went.

    Attributes:
        split: classes the tasks were drawn from.
        num_tasks: M.
        declared: the primary metric.
        step: outer steps the meta-parameters had seen; of an ensemble, the best of them.
        model: ``single``, or ``ensemble``: the average prediction of several.
        transductive: batch statistics (if any) of the whole query set at once.
        non_transductive: batch statistics of the support set alone.
        num_models: how many were averaged.
        further: name -> the other metrics.
        scores: [M] the headline of every task: models that were evaluated on the same tasks are
            compared pairwise by them. Not written to files (`as_plain`).
    """

    split: Split
    num_tasks: int
    declared: Declaration
    step: int
    model: Literal["single", "ensemble"]
    transductive: Curve
    non_transductive: Curve
    num_models: int = 1
    further: Mapping[str, Further] = field(default_factory=dict)
    scores: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.zeros(0, np.float32), compare=False, repr=False
    )

    @property
    def metric(self) -> str:
        """The name of the primary metric."""
        return self.declared.name

    @property
    def declarations(self) -> list[Declaration]:
        """Of all metrics, the primary one first."""
        return [self.declared, *(each.declared for each in self.further.values())]

    @property
    def value(self) -> float:
        """The headline: the mean after the last inner step, transductive."""
        return self.transductive.mean[-1]

    @property
    def ci95(self) -> float:
        """Half-width of its 95% confidence interval."""
        return self.transductive.ci95[-1]

    @property
    def num_non_finite(self) -> int:
        """Tasks that have a prediction that is not finite after the last inner step.

        Of the two modes, the one that has more of them.
        """
        curves = (self.transductive, self.non_transductive)
        return max((curve.non_finite[-1] for curve in curves if curve.non_finite), default=0)

    @property
    def num_undefined(self) -> Mapping[str, int]:
        """Metric -> tasks that it is not defined for after the last inner step, if there are any.

        Of the two modes, the one that has more of them.
        """
        curves = (self.transductive, self.non_transductive)
        most = max((curve.undefined[-1] for curve in curves if curve.undefined), default=0)
        found = {self.metric: most}
        for name, each in self.further.items():
            found[name] = max(each.transductive.undefined, each.non_transductive.undefined)
        return {name: count for name, count in found.items() if count}


def as_plain(evaluation: Evaluation) -> dict[str, Any]:
    """What results.json has of an evaluation: everything but the scores of the tasks.

    Further metrics, and counts of tasks that a metric is not defined for, are there if there are
    any.
    """
    plain: dict[str, Any] = {
        "split": evaluation.split,
        "num_tasks": evaluation.num_tasks,
        "metric": evaluation.metric,
        "step": evaluation.step,
        "model": evaluation.model,
        "transductive": _plain_curve(evaluation.transductive),
        "non_transductive": _plain_curve(evaluation.non_transductive),
        "num_models": evaluation.num_models,
    }
    if evaluation.further:
        plain["further"] = {
            name: {mode: dataclasses.asdict(getattr(each, mode)) for mode in MODES}
            for name, each in evaluation.further.items()
        }
    if evaluation.num_undefined:
        plain["num_undefined"] = dict(evaluation.num_undefined)
    return {**plain, "num_non_finite": evaluation.num_non_finite}


def _plain_curve(curve: Curve) -> dict[str, Any]:
    plain = dataclasses.asdict(curve)
    return plain if curve.undefined else {k: v for k, v in plain.items() if k != "undefined"}


def non_finite_line(plain: Mapping[str, Any], declared: Declaration) -> str | None:
    """A warning for people if predictions of evaluated tasks were not finite; else None.

    Args:
        plain: of `as_plain`, also as an earlier version wrote it.
        declared: its primary metric.
    """
    if not (count := plain.get("num_non_finite", 0)):
        return None
    return (
        f"predictions were NaN or infinite in {count} of {plain['num_tasks']} {plain['split']} "
        f"tasks ({declared.non_finite}): the learner diverges; lower algorithm.inner_lr or outer.lr"
    )


def undefined_lines(plain: Mapping[str, Any]) -> list[str]:
    """For people: which metrics are not defined for some of the tasks.

    Args:
        plain: of `as_plain`, also as an earlier version wrote it.
    """
    return [
        f"{name} is not defined for {count} of {plain['num_tasks']} {plain['split']} tasks, which "
        "are left out of its mean"
        for name, count in plain.get("num_undefined", {}).items()
    ]


def has_diverged(evaluation: Evaluation) -> bool:
    """Whether its headline says nothing of the learner: it is NaN, or no task was predicted."""
    nothing = evaluation.num_non_finite == evaluation.num_tasks
    return nothing or math.isnan(evaluation.value)


def model_text(model: str, num_models: int) -> str:
    """``single model`` or ``ensemble of 5 models``."""
    return "single model" if model == "single" else f"ensemble of {num_models} models"


def ranked(best: Ranking, evaluation: Evaluation, keep: int) -> Ranking:
    """The `keep` best of earlier evaluations and this one, best first; of equals, the earlier.

    An evaluation that is NaN, or whose predictions are not finite in any task, is not among them.
    """
    if has_diverged(evaluation):
        return best
    sign = -1 if evaluation.declared.higher_is_better else 1
    everything = [*best, (evaluation.step, evaluation.value)]
    return tuple(sorted(everything, key=lambda scored: sign * scored[1])[:keep])
