"""How good the probabilities of a classification are: the softmax of the logits.

Letters: Q query examples, D outputs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dmeta.formatting import FRACTION
from dmeta.metrics.finite import finite_rows
from dmeta.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

_BINS = 15


def nll(logits: Tensor, labels: Tensor, ways: int) -> Tensor:  # noqa: ARG001 - a metric's
    """Negative log-likelihood of the labels in nats, mean over the queries: infinite at worst.

    [..., Q, D] logits and [..., Q] labels to [...].
    """
    chosen = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1))
    return -chosen.squeeze(-1).mean(-1)


def brier(logits: Tensor, labels: Tensor, ways: int) -> Tensor:  # noqa: ARG001 - a metric's
    """Brier score (Brier 1950): squared distance to the label's vector, mean over the queries.

    The sum over the classes, so from 0 to 2. [..., Q, D] logits and [..., Q] labels to [...].
    """
    import torch

    classes = torch.arange(logits.shape[-1], device=logits.device)
    away = logits.softmax(-1) - (labels.unsqueeze(-1) == classes).to(logits.dtype)
    return away.square().sum(-1).mean(-1)


def ece(logits: Tensor, labels: Tensor, ways: int) -> Tensor | float:  # noqa: ARG001 - a metric's
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3) with 15 equal bins.

    Mean over the queries of the distance between the accuracy of their bin and its mean confidence,
    which is the largest probability.
    """
    if not finite_rows("classification", logits).all():
        return math.nan
    from dmeta.torchvision_compat import import_torchmetrics

    error: Tensor = import_torchmetrics().classification.multiclass_calibration_error(
        logits.softmax(-1),
        labels,
        num_classes=logits.shape[-1],
        n_bins=_BINS,
        norm="l1",
        validate_args=False,
    )
    return error


NLL = Metric(
    "nll",
    nll,
    higher_is_better=False,
    unit="nats",
    label="negative log-likelihood",
    low=0.0,
    kind="classification",
    batched=True,
)

BRIER = Metric(
    "brier",
    brier,
    higher_is_better=False,
    label="Brier score",
    low=0.0,
    high=2.0,
    kind="classification",
    batched=True,
)

ECE = Metric(
    "ece",
    ece,
    higher_is_better=False,
    unit=FRACTION,
    label="expected calibration error",
    low=0.0,
    high=1.0,
    kind="classification",
)
