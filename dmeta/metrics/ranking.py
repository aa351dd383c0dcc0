"""How well probabilities rank the classes: areas under curves, one class against the rest.

Undefined for a task whose queries lack one of its classes.

Letters: Q query examples, D outputs, W ways.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dmeta.formatting import FRACTION
from dmeta.metrics.finite import finite_rows
from dmeta.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor


def auroc(logits: Tensor, labels: Tensor, ways: int) -> Tensor | float:
    """Area under the ROC curve, of classes against the rest, mean over the W classes.

    The probability that a query of the class gets a larger probability of it than one of another
    class; of equal ones a half. Of two ways, both classes have the same area.
    """
    return _area("auroc", logits, labels, ways)


def auprc(logits: Tensor, labels: Tensor, ways: int) -> Tensor | float:
    """Average precision, of classes against the rest, mean over the W classes.

    The sum over thresholds of the gain of recall times the precision there. Of two ways: that of
    class 1.
    """
    return _area("average_precision", logits, labels, ways)


def _area(curve: str, logits: Tensor, labels: Tensor, ways: int) -> Tensor | float:
    is_finite = bool(finite_rows("classification", logits).all())
    if not is_finite or labels.bincount(minlength=ways)[:ways].min() == 0:
        return math.nan
    from dmeta.torchvision_compat import import_torchmetrics

    functional = import_torchmetrics().classification
    chances = logits.softmax(-1)[:, :ways]
    of = "binary" if ways == 2 else "multiclass"
    size = {} if ways == 2 else {"num_classes": ways}
    area: Tensor = getattr(functional, f"{of}_{curve}")(
        chances[:, 1] if ways == 2 else chances, labels, validate_args=False, **size
    )
    return area


AUROC = Metric(
    "auroc",
    auroc,
    higher_is_better=True,
    unit=FRACTION,
    label="area under the ROC curve",
    low=0.0,
    high=1.0,
    kind="classification",
)

AUPRC = Metric(
    "auprc",
    auprc,
    higher_is_better=True,
    unit=FRACTION,
    label="area under the precision-recall curve",
    low=0.0,
    high=1.0,
    kind="classification",
)
