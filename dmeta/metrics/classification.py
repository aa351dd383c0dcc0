"""Metrics of the predicted labels of a classification.

Letters: Q query examples, W outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmeta.formatting import FRACTION
from dmeta.metrics.finite import finite_rows
from dmeta.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor, ways: int) -> Tensor:  # noqa: ARG001 - a metric's
    """Share of right answers: [..., Q, W] logits and [..., Q] labels to [...].

    A prediction that is not finite (`finite_rows`) is wrong, whatever the label.
    """
    right = (logits.argmax(-1) == labels) & finite_rows("classification", logits)
    return right.float().mean(-1)


def balanced_accuracy(logits: Tensor, labels: Tensor, ways: int) -> Tensor:  # noqa: ARG001
    """Mean over the classes that the queries have of the share of right answers in each."""
    recalls = _of_classes("multiclass_recall", logits, labels)
    return recalls[_seen(labels, logits)].mean()


def macro_f1(logits: Tensor, labels: Tensor, ways: int) -> Tensor:  # noqa: ARG001 - a metric's
    """Mean over the classes of their F1, the harmonic mean of precision and recall.

    Of the classes that a query has or that is predicted for one.
    """
    scores = _of_classes("multiclass_f1_score", logits, labels)
    predicted = logits[_finite(logits)].argmax(-1)
    return scores[_seen(labels, logits) | _seen(predicted, logits)].mean()


def _seen(labels: Tensor, logits: Tensor) -> Tensor:
    """Which of the D outputs are among labels: bool [D]."""
    return labels.bincount(minlength=logits.shape[-1]) > 0


def _finite(logits: Tensor) -> Tensor:
    return finite_rows("classification", logits)


def _of_classes(function: str, logits: Tensor, labels: Tensor) -> Tensor:
    """One of torchmetrics' scores of each of the W outputs; none of them is a lost prediction's."""
    from dmeta.torchvision_compat import import_torchmetrics

    outputs = logits.shape[-1]
    predicted = logits.argmax(-1).masked_fill(~_finite(logits), outputs)  # a class that no label is
    compute = getattr(import_torchmetrics().classification, function)
    scores: Tensor = compute(
        predicted, labels, num_classes=outputs + 1, average=None, validate_args=False
    )
    return scores[:outputs]


_WRONG = "such predictions count as wrong"

ACCURACY = Metric(
    "accuracy",
    accuracy,
    higher_is_better=True,
    unit=FRACTION,
    low=0.0,
    high=1.0,
    non_finite=_WRONG,
    kind="classification",
    batched=True,
)

BALANCED_ACCURACY = Metric(
    "balanced_accuracy",
    balanced_accuracy,
    higher_is_better=True,
    unit=FRACTION,
    label="balanced accuracy",
    low=0.0,
    high=1.0,
    non_finite=_WRONG,
    kind="classification",
)

MACRO_F1 = Metric(
    "macro_f1",
    macro_f1,
    higher_is_better=True,
    unit=FRACTION,
    label="macro F1",
    low=0.0,
    high=1.0,
    non_finite=_WRONG,
    kind="classification",
)
