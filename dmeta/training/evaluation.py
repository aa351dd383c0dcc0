"""From scores per task to numbers that say what they are of.

Letters: M evaluated tasks, K inner steps at evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from dmeta.bilevel.types import Kind
from dmeta.runs.progress import Ranking
from dmeta.runtime.messages import BlockReport
from dmeta.tasks.source import Split
from dmeta.training.intervals import half_width
from dmeta.training.work.worker import (
    MODES,
    TARGET,
    metric_name,
    non_finite_key,
    non_finite_of,
    predictions_key,
    scores_of,
)


@dataclass(frozen=True)
class Curve:
    """A metric after 0, 1, ..., K inner steps.

    Attributes:
        mean: over the tasks.
        ci95: half-width of the 95% confidence interval of the mean (`intervals.half_width`).
        non_finite: tasks that have a query prediction that is not finite; such a prediction counts
            as wrong, and makes a squared error NaN or infinite.
    """

    mean: tuple[float, ...]
    ci95: tuple[float, ...]
    non_finite: tuple[int, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """What was evaluated, and how it went.

    Attributes:
        split: classes the tasks were drawn from.
        num_tasks: M.
        metric: ``accuracy`` (fraction) or ``mse``.
        step: outer steps the meta-parameters had seen; of an ensemble, the best of them.
        model: ``single``, or ``ensemble``: the average prediction of several.
        transductive: batch statistics (if any) of the whole query set at once.
        non_transductive: batch statistics of the support set alone.
        num_models: how many were averaged.
        scores: [M] the headline of every task: models that were evaluated on the same tasks are
            compared pairwise by them. Not written to files (`as_plain`).
    """

    split: Split
    num_tasks: int
    metric: str
    step: int
    model: Literal["single", "ensemble"]
    transductive: Curve
    non_transductive: Curve
    num_models: int = 1
    scores: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.zeros(0, np.float32), compare=False, repr=False
    )

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


def as_plain(evaluation: Evaluation) -> dict[str, Any]:
    """What results.json has of an evaluation: everything but the scores of the tasks."""
    plain = asdict(evaluation)
    del plain["scores"]
    return {**plain, "num_non_finite": evaluation.num_non_finite}


def non_finite_line(plain: Mapping[str, Any]) -> str | None:
    """A warning for people if predictions of evaluated tasks were not finite; else None.

    Args:
        plain: of `as_plain`, also as an earlier version wrote it.
    """
    if not (count := plain.get("num_non_finite", 0)):
        return None
    counted = {
        "accuracy": "such predictions count as wrong",
        "mse": "their squared errors are not finite",
    }[plain["metric"]]
    return (
        f"predictions were NaN or infinite in {count} of {plain['num_tasks']} {plain['split']} "
        f"tasks ({counted}): the learner diverges; lower algorithm.inner_lr or outer.lr"
    )


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
    sign = -1 if evaluation.metric == "accuracy" else 1
    everything = [*best, (evaluation.step, evaluation.value)]
    return tuple(sorted(everything, key=lambda scored: sign * scored[1])[:keep])


def summarize(reports: Sequence[BlockReport], split: Split, step: int, kind: Kind) -> Evaluation:
    """Mean and confidence interval over all tasks of the reports (in order of block)."""
    together, apart = (
        _curve(_all_tasks(reports, mode), _all_tasks(reports, non_finite_key(mode)))
        for mode in MODES
    )
    scores = _all_tasks(reports, MODES[0])
    return Evaluation(
        split, len(scores), metric_name(kind), step, "single", together, apart, scores=scores[:, -1]
    )


def summarize_ensemble(
    models: Sequence[Sequence[BlockReport]], split: Split, step: int, kind: Kind
) -> Evaluation:
    """The evaluation of the models' average prediction: probabilities, or values of a regression.

    Args:
        models: the reports of each, with predictions, on the same tasks.
        split: of the tasks.
        step: of the best model.
        kind: of the tasks.
    """
    averaged = {TARGET: torch.from_numpy(_all_tasks(models[0], TARGET))}
    for key in map(predictions_key, MODES):
        predictions = [torch.from_numpy(_all_tasks(reports, key)) for reports in models]
        if kind == "classification":
            predictions = [logits.softmax(-1) for logits in predictions]
        averaged[key] = torch.stack(predictions).mean(0)
    found = {**scores_of(kind, averaged), **non_finite_of(kind, averaged)}
    scores = found[MODES[0]].numpy()
    together, apart = (
        _curve(found[mode].numpy(), found[non_finite_key(mode)].numpy()) for mode in MODES
    )
    return Evaluation(
        split,
        len(scores),
        metric_name(kind),
        step,
        "ensemble",
        together,
        apart,
        num_models=len(models),
        scores=scores[:, -1],
    )


def _all_tasks(reports: Sequence[BlockReport], key: str) -> npt.NDArray[np.float32]:
    return np.concatenate([report.per_task[key] for report in reports])


def _curve(scores: npt.NDArray[np.float32], non_finite: npt.NDArray[Any]) -> Curve:
    """Args: scores: [M, K+1]; non_finite: [M, K+1] predictions that are not finite."""
    means = scores.astype(np.float64).mean(axis=0)
    num_tasks = np.count_nonzero(non_finite, axis=0)
    return Curve(
        tuple(means.tolist()), tuple(half_width(scores).tolist()), tuple(num_tasks.tolist())
    )
