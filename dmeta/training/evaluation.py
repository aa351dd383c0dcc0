"""From per-task scores to numbers that say what they are of.

Letters: M evaluated tasks, K inner steps at evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dmeta.bilevel.types import Kind
from dmeta.runtime.protocol import BlockReport
from dmeta.tasks.source import Split
from dmeta.training.work import MODES, TARGET, metric_name, predictions_key, scores_of

Ranking: TypeAlias = tuple[tuple[int, float], ...]
"""(outer step, score) of validated models, best first."""


@dataclass(frozen=True)
class Curve:
    """A metric after 0, 1, ..., K inner steps.

    Attributes:
        mean: over the tasks.
        ci95: half-width of the 95% confidence interval of the mean, 1.96 sigma / sqrt(M), as in
            the reference code of Finn et al. 2017.
    """

    mean: tuple[float, ...]
    ci95: tuple[float, ...]


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


def as_plain(evaluation: Evaluation) -> dict[str, Any]:
    """What results.json has of an evaluation: everything but the scores of the tasks."""
    plain = asdict(evaluation)
    del plain["scores"]
    return plain


def model_in_words(model: str, num_models: int) -> str:
    """``single model`` or ``ensemble of 5 models``."""
    return "single model" if model == "single" else f"ensemble of {num_models} models"


def ranked(best: Ranking, evaluation: Evaluation, keep: int) -> Ranking:
    """The `keep` best of earlier evaluations and this one, best first; of equals, the earlier.

    An evaluation that is NaN is not among them.
    """
    if math.isnan(evaluation.value):
        return best
    sign = -1 if evaluation.metric == "accuracy" else 1
    everything = [*best, (evaluation.step, evaluation.value)]
    return tuple(sorted(everything, key=lambda scored: sign * scored[1])[:keep])


def summarize(reports: Sequence[BlockReport], split: Split, step: int, kind: Kind) -> Evaluation:
    """Mean and confidence interval over all tasks of the reports (in order of block)."""
    together, apart = (_all_tasks(reports, mode) for mode in MODES)
    return Evaluation(
        split,
        len(together),
        metric_name(kind),
        step,
        "single",
        _curve(together),
        _curve(apart),
        scores=together[:, -1],
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
    scores = scores_of(kind, averaged)
    together, apart = (scores[mode].numpy() for mode in MODES)
    return Evaluation(
        split,
        len(together),
        metric_name(kind),
        step,
        "ensemble",
        _curve(together),
        _curve(apart),
        num_models=len(models),
        scores=together[:, -1],
    )


def _all_tasks(reports: Sequence[BlockReport], key: str) -> npt.NDArray[np.float32]:
    return np.concatenate([report.per_task[key] for report in reports])


def _curve(scores: npt.NDArray[np.float32]) -> Curve:
    wide = scores.astype(np.float64)
    with np.errstate(invalid="ignore"):  # of a learner that diverged: the mean says it
        ci95 = 1.96 * wide.std(axis=0) / math.sqrt(len(wide))
    return Curve(tuple(wide.mean(axis=0).tolist()), tuple(ci95.tolist()))
