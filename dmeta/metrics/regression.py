"""Metrics of regression. Letters: Q query examples, D outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dmeta.metrics.finite import finite_rows
from dmeta.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor


def mse(values: Tensor, targets: Tensor, ways: int) -> Tensor:  # noqa: ARG001 - a metric's
    """Mean squared error: [..., Q, D] values twice to [...].

    Values that are not finite make it NaN or infinite.
    """
    return (values - targets).square().flatten(-2).mean(-1)


def mae(values: Tensor, targets: Tensor, ways: int) -> Tensor:  # noqa: ARG001 - a metric's
    """Mean absolute error: [Q, D] values twice."""
    from dmeta.torchvision_compat import import_torchmetrics

    error: Tensor = import_torchmetrics().mean_absolute_error(
        values.contiguous(), targets.contiguous()
    )
    return error


def r2(values: Tensor, targets: Tensor, ways: int) -> Tensor | float:  # noqa: ARG001 - a metric's
    """Coefficient of determination: 1 - squared error / variance of the targets, mean over outputs.

    Undefined where the targets of an output are all equal.
    """
    if _is_constant(targets) or not _is_finite(values):
        return math.nan
    from dmeta.torchvision_compat import import_torchmetrics

    share: Tensor = import_torchmetrics().r2_score(values, targets)
    return share


def spearman(values: Tensor, targets: Tensor, ways: int) -> Tensor | float:  # noqa: ARG001
    """Rank correlation (Spearman 1904), mean over outputs; equal values share their mean rank.

    Undefined where the targets or the predictions of an output are all equal.
    """
    if _is_constant(targets) or _is_constant(values) or not _is_finite(values):
        return math.nan
    from dmeta.torchvision_compat import import_torchmetrics

    correlate = import_torchmetrics().spearman_corrcoef
    pairs = zip(values.unbind(-1), targets.unbind(-1), strict=True)
    correlations: list[Tensor] = [correlate(v.contiguous(), t.contiguous()) for v, t in pairs]
    return sum(map(float, correlations)) / len(correlations)


def _is_constant(values: Tensor) -> bool:
    """Whether an output [Q] of [Q, D] has equal values only."""
    return bool((values == values[:1]).all(0).any())


def _is_finite(values: Tensor) -> bool:
    return bool(finite_rows("regression", values).all())


MSE = Metric(
    "mse",
    mse,
    higher_is_better=False,
    unit="target squared",
    label="mean squared error",
    low=0.0,
    non_finite="their squared errors are not finite",
    kind="regression",
    batched=True,
)

MAE = Metric(
    "mae",
    mae,
    higher_is_better=False,
    unit="target",
    label="mean absolute error",
    low=0.0,
    non_finite="their errors are not finite",
    kind="regression",
)

R2 = Metric(
    "r2",
    r2,
    higher_is_better=True,
    label="coefficient of determination",
    high=1.0,
    kind="regression",
)

SPEARMAN = Metric(
    "spearman",
    spearman,
    higher_is_better=True,
    label="rank correlation",
    low=-1.0,
    high=1.0,
    kind="regression",
)
