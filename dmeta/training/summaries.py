"""From scores per task to evaluations.

A metric may be undefined for a task, whose score is then NaN (`dmeta.metrics`). Such tasks are
counted and left out of the mean and its interval. A NaN that comes of a prediction that is not
finite is not left out: the mean is NaN, for the learner diverges.

Letters: M evaluated tasks, K inner steps at evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dmeta.bilevel.types import Kind
from dmeta.metrics.metric import Metric
from dmeta.runtime.messages import BlockReport, TaskPredictions
from dmeta.tasks.source import Split
from dmeta.training.evaluation import Curve, Estimate, Evaluation, Further
from dmeta.training.intervals import half_width
from dmeta.training.work.scores import (
    MODES,
    TARGET,
    StatisticsMode,
    non_finite_key,
    non_finite_of,
    predictions_key,
    score_key,
    scores_of,
)


def summarize(
    reports: Sequence[BlockReport], split: Split, step: int, metrics: Sequence[Metric]
) -> Evaluation:
    """Mean and confidence interval over all tasks of the reports (in order of block)."""
    keys = [score_key(mode, metric.name) for mode in MODES for metric in metrics]
    keys += [non_finite_key(mode) for mode in MODES]
    found = {key: _all_tasks(reports, key) for key in keys}
    return _evaluation(found, metrics, split, step, num_models=None)


def summarize_ensemble(
    models: Sequence[Sequence[BlockReport]],
    split: Split,
    step: int,
    kind: Kind,
    metrics: Sequence[Metric],
) -> Evaluation:
    """The evaluation of the models' average prediction: probabilities, or values of a regression.

    Args:
        models: the reports of each, with predictions, on the same tasks.
        split: of the tasks.
        step: of the best model.
        kind: of the tasks.
        metrics: of them.
    """
    found: list[dict[str, npt.NDArray[Any]]] = []
    places: list[int] = []
    for reports in zip(*models, strict=True):
        first = len(places)
        for same in zip(*(report.predictions for report in reports), strict=True):
            places += [first + place for place in same[0].places]
            found.append(_ensemble_scores(same, kind, metrics))
    order = np.argsort(places)
    arrays = {key: np.concatenate([each[key] for each in found])[order] for key in found[0]}
    return _evaluation(arrays, metrics, split, step, num_models=len(models))


def _ensemble_scores(
    models: Sequence[TaskPredictions], kind: Kind, metrics: Sequence[Metric]
) -> dict[str, npt.NDArray[Any]]:
    """`score_key` and `non_finite_key` -> [T, ...] of T tasks of one size, as each model has them.

    Args: models: all of the same tasks.
    """
    targets = torch.from_numpy(models[0].arrays[TARGET])
    averaged = {TARGET: targets.long() if kind == "classification" else targets}
    for key in map(predictions_key, MODES):
        predictions = [torch.from_numpy(each.arrays[key]) for each in models]
        if kind == "classification":
            # Metrics take logits. In float64 different probabilities keep different logarithms.
            mean = torch.stack([logits.softmax(-1) for logits in predictions]).mean(0)
            averaged[key] = mean.double().log()
        else:
            averaged[key] = torch.stack(predictions).mean(0)
    found = non_finite_of(kind, averaged)
    for batched in (True, False):
        found |= scores_of(metrics, averaged, models[0].ways, batched=batched)
    return {key: value.numpy() for key, value in found.items()}


def _evaluation(
    found: Mapping[str, npt.NDArray[Any]],
    metrics: Sequence[Metric],
    split: Split,
    step: int,
    num_models: int | None,
) -> Evaluation:
    """Args: found: `score_key` and `non_finite_key` -> [M, ...]; num_models: None: no ensemble."""
    primary, *others = metrics

    def curve(metric: Metric, mode: StatisticsMode) -> Curve:
        return _curve(found[score_key(mode, metric.name)], found[non_finite_key(mode)])

    further = {
        metric.name: Further(metric.declaration, *(_last(curve(metric, mode)) for mode in MODES))
        for metric in others
    }
    scores = found[score_key(MODES[0], primary.name)]
    together, apart = (curve(primary, mode) for mode in MODES)
    return Evaluation(
        split,
        len(scores),
        primary.declaration,
        step,
        "single" if num_models is None else "ensemble",
        together,
        apart,
        num_models=num_models or 1,
        further=further,
        scores=scores[:, -1],
    )


def _all_tasks(reports: Sequence[BlockReport], key: str) -> npt.NDArray[np.float32]:
    return np.concatenate([report.per_task[key] for report in reports])


def _curve(scores: npt.NDArray[np.float32], non_finite: npt.NDArray[Any]) -> Curve:
    """Args: scores: [M, K+1], or [M, 1], after the last; non_finite: [M, K+1] predictions."""
    num_tasks = np.count_nonzero(non_finite, axis=0)
    non_finite = non_finite[:, -scores.shape[1] :]
    undefined = np.isnan(scores) & (non_finite == 0)
    if not undefined.any():
        means = scores.astype(np.float64).mean(axis=0)
        widths = half_width(scores)
        return Curve(tuple(means.tolist()), tuple(widths.tolist()), tuple(num_tasks.tolist()))
    defined = [column[~left_out] for column, left_out in zip(scores.T, undefined.T, strict=True)]
    return Curve(
        tuple(float(c.astype(np.float64).mean()) if len(c) else math.nan for c in defined),
        tuple(float(half_width(c)) for c in defined),
        tuple(num_tasks.tolist()),
        tuple(np.count_nonzero(undefined, axis=0).tolist()),
    )


def _last(curve: Curve) -> Estimate:
    return Estimate(curve.mean[-1], curve.ci95[-1], curve.undefined[-1] if curve.undefined else 0)
