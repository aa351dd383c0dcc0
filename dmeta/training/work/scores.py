"""What an evaluation says of the predictions of tasks: scores, and which are not finite.

Letters: T tasks, Q query examples, K inner steps at evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dmeta.bilevel.types import Kind
from dmeta.metrics.finite import finite_rows
from dmeta.metrics.metric import Metric, scores

StatisticsMode: TypeAlias = Literal["transductive", "non_transductive"]
MODES: tuple[StatisticsMode, ...] = ("transductive", "non_transductive")
TARGET = "target"


def predictions_key(mode: StatisticsMode) -> str:
    """Under which `dmeta.training.work.predictions.predict_task` has the predictions of a mode."""
    return f"{mode}_prediction"


PREDICTIONS = (*map(predictions_key, MODES), TARGET)
"""All keys of what `predict_task` returns."""


def non_finite_key(mode: StatisticsMode) -> str:
    """Under which `non_finite_of` has the counts of a mode."""
    return f"{mode}_non_finite"


def score_key(mode: StatisticsMode, metric: str) -> str:
    """Under which `scores_of` has the scores of a metric."""
    return f"{mode}_{metric}"


def scores_of(
    metrics: Sequence[Metric], predictions: Mapping[str, Tensor], ways: int, *, batched: bool
) -> dict[str, Tensor]:
    """The metrics of what `predict_task` predicted, tasks in front or not.

    Args:
        metrics: the first is the primary one.
        predictions: as `predict_task` returns them.
        ways: classes of a task.
        batched: of the metrics that are (`Metric.batched`), or of those that are not.

    Returns: `score_key` -> [..., K+1] of the primary metric, [..., 1], after the last inner step,
        of others.
    """
    target = predictions[TARGET]
    found: dict[str, Tensor] = {}
    both = [predictions[predictions_key(mode)] for mode in MODES]
    same = not batched and torch.equal(*both)
    for metric in metrics:
        if metric.batched is not batched:
            continue
        for mode, prediction in zip(MODES, both, strict=True):
            key = score_key(mode, metric.name)
            if same and mode != MODES[0]:
                found[key] = found[score_key(MODES[0], metric.name)]
                continue
            steps = prediction if metric is metrics[0] else prediction[..., -1:, :, :]
            # [..., Q] or [..., Q, D] for each inner step.
            found[key] = scores(metric, steps, _of_each_step(target, steps), ways)
    return found


def _of_each_step(target: Tensor, prediction: Tensor) -> Tensor:
    """Targets [..., Q] or [..., Q, D] with a dimension for inner steps."""
    is_labels = target.dim() == prediction.dim() - 2
    return target.unsqueeze(-2 if is_labels else -3)


def non_finite_of(kind: Kind, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How many query predictions of `predict_task` are not finite: [..., K+1] for each mode."""
    return {
        non_finite_key(mode): (~finite_rows(kind, predictions[predictions_key(mode)])).sum(-1)
        for mode in MODES
    }
