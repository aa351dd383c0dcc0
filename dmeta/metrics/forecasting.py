"""Metrics of forecasts. Letters: Q query examples, D outputs (values of a horizon)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmeta.formatting import FRACTION
from dmeta.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor


def smape(values: Tensor, targets: Tensor, ways: int) -> Tensor:  # noqa: ARG001 - a metric's
    """Symmetric mean absolute percentage error, mean of 2 |v - t| / (|v| + |t|); 0 of two zeros.

    [..., Q, D] values twice to [...]; 0 to 2, which is shown as 0 to 200%.
    """
    sizes = values.abs() + targets.abs()
    errors = 2 * (values - targets).abs() / sizes.where(sizes != 0, 1)
    return errors.flatten(-2).mean(-1)


def mase(values: Tensor, targets: Tensor, ways: int) -> Tensor:  # noqa: ARG001 - a metric's
    """Mean absolute scaled error: the mean absolute error of targets that are scaled already.

    [..., Q, D] values twice to [...]. The tasks of ``task=forecast`` have their targets in units of
    the mean absolute error, until then, of repeating each value after a season.
    """
    return (values - targets).abs().flatten(-2).mean(-1)


SMAPE = Metric(
    "smape",
    smape,
    higher_is_better=False,
    unit=FRACTION,
    label="symmetric mean absolute percentage error",
    low=0.0,
    high=2.0,
    kind="regression",
    batched=True,
)

MASE = Metric(
    "mase",
    mase,
    higher_is_better=False,
    label="mean absolute scaled error",
    low=0.0,
    kind="regression",
    batched=True,
    of_source=True,
)
