"""Metrics by name; a new one is its function and its entry here.

Looking up names imports no torch; nor does a metric, before it is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmeta.metrics.metric import Metric
from dmeta.registry import LazyEntry, Registry

if TYPE_CHECKING:
    from dmeta.bilevel.types import Kind

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "accuracy": LazyEntry(
            "dmeta.metrics.classification:ACCURACY",
            "share of the queries whose largest logit is that of their class",
            "dmeta",
            is_ready=True,
        ),
        "balanced_accuracy": LazyEntry(
            "dmeta.metrics.classification:BALANCED_ACCURACY",
            "accuracy of each class, mean over the classes",
            "Brodersen et al. 2010",
            is_ready=True,
        ),
        "macro_f1": LazyEntry(
            "dmeta.metrics.classification:MACRO_F1",
            "F1 of each class, mean over the classes",
            "van Rijsbergen 1979",
            is_ready=True,
        ),
        "nll": LazyEntry(
            "dmeta.metrics.probabilities:NLL",
            "negative log-likelihood of the labels, in nats",
            "Good 1952",
            is_ready=True,
        ),
        "brier": LazyEntry(
            "dmeta.metrics.probabilities:BRIER",
            "squared error of the probabilities, summed over the classes",
            "Brier 1950",
            is_ready=True,
        ),
        "ece": LazyEntry(
            "dmeta.metrics.probabilities:ECE",
            "expected calibration error, 15 bins",
            "Guo et al. 2017, arXiv:1706.04599",
            is_ready=True,
        ),
        "auroc": LazyEntry(
            "dmeta.metrics.ranking:AUROC",
            "area under the ROC curve, one class against the rest",
            "Hanley & McNeil 1982",
            is_ready=True,
        ),
        "auprc": LazyEntry(
            "dmeta.metrics.ranking:AUPRC",
            "average precision, one class against the rest",
            "Davis & Goadrich 2006",
            is_ready=True,
        ),
        "mse": LazyEntry(
            "dmeta.metrics.regression:MSE",
            "mean squared error",
            "dmeta",
            is_ready=True,
        ),
        "mae": LazyEntry(
            "dmeta.metrics.regression:MAE",
            "mean absolute error",
            "Willmott & Matsuura 2005",
            is_ready=True,
        ),
        "mase": LazyEntry(
            "dmeta.metrics.forecasting:MASE",
            "mean absolute error in units of the seasonal naive forecast's, of task=forecast",
            "Hyndman & Koehler 2006",
            is_ready=True,
        ),
        "r2": LazyEntry(
            "dmeta.metrics.regression:R2",
            "coefficient of determination",
            "Wright 1921",
            is_ready=True,
        ),
        "smape": LazyEntry(
            "dmeta.metrics.forecasting:SMAPE",
            "absolute error over the mean size of prediction and target",
            "Makridakis et al. 2020 (M4)",
            is_ready=True,
        ),
        "spearman": LazyEntry(
            "dmeta.metrics.regression:SPEARMAN",
            "rank correlation",
            "Spearman 1904",
            is_ready=True,
        ),
    },
)

_DEFAULTS = {"classification": "accuracy", "regression": "mse"}


def default_metric(kind: Kind) -> Metric:
    """The metric of tasks of a kind where nothing else is chosen; training tasks always have it."""
    return METRICS[_DEFAULTS[kind]].make()
