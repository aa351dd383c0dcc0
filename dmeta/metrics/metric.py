"""A metric: a number for the query predictions of one task. Imports no torch before it is computed.

Letters: Q query examples, D outputs, W ways.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from dmeta.metrics.declaration import Declaration

if TYPE_CHECKING:
    from torch import Tensor

    from dmeta.bilevel.types import Kind

MetricFunction: TypeAlias = "Callable[[Tensor, Tensor, int], Tensor | float]"
"""(predictions [Q, D], targets [Q] or [Q, D], ways) -> a scalar, NaN where it is undefined.

Predictions of a classification are logits: their softmax are its probabilities.
"""

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_RESERVED = frozenset(
    {"event", "step", "loss", "num_tasks", "ci95", "num_non_finite", "num_undefined", "best_step"}
    | {"seconds", "lr", "gradient_norm", "rejected", "tasks_per_second"}
)
"""Keys that rows of metrics.jsonl have already."""


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: key of its values in ``results.json`` and ``metrics.jsonl``.
        function: of one task; picklable, for it is sent to the workers.
        higher_is_better: its direction.
        unit: as of `dmeta.metrics.declaration.Declaration`, likewise the next four.
        label: its name in figures.
        low: its least possible value.
        high: its largest possible value.
        non_finite: what predictions that are not finite do to it.
        kind: of the tasks that it is for; None: of either.
        batched: whether the function also takes tasks in front ([..., Q, D] to [...]), and can be
            mapped by ``torch.func.vmap``.
        of_source: whether it means something only with a source that lists it in its ``metrics``,
            because it takes the unit of its targets for granted.
    """

    name: str
    function: MetricFunction
    higher_is_better: bool
    unit: str = ""
    label: str = ""
    low: float | None = None
    high: float | None = None
    non_finite: str = Declaration.non_finite
    kind: Kind | None = None
    batched: bool = False
    of_source: bool = False

    def __post_init__(self) -> None:
        """Refuses a name that cannot be a key."""
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise ValueError(
                "the name of a metric must be of small letters, digits and _, begin with a letter "
                f"and not be a key of metrics.jsonl, got {self.name!r}; rename it"
            )
        if not callable(self.function):
            raise ValueError(
                f"the function of metric {self.name} must take (predictions, targets, ways), got "
                f"{self.function!r}; pass a function"
            )

    @property
    def declaration(self) -> Declaration:
        """What is known of it without computing it."""
        names = [field.name for field in dataclasses.fields(Declaration)]
        return Declaration(**{name: getattr(self, name) for name in names})


def scores(metric: Metric, predictions: Tensor, targets: Tensor, ways: int) -> Tensor:
    """The metric of many predictions at once.

    Args:
        metric: it.
        predictions: [..., Q, D].
        targets: [..., Q] labels or [..., Q, D] values; dimensions of size 1 in front are repeated.
        ways: W.

    Returns: [...] float32; NaN where the metric is undefined.
    """
    front = predictions.shape[:-2]
    own = targets.shape[len(front) :]
    targets = targets.expand(*front, *own)
    if metric.batched:
        return metric.function(predictions, targets, ways)  # type: ignore[return-value]
    import torch  # registering and reading metrics needs none

    kept = torch.promote_types(predictions.dtype, torch.float32)
    tasks = predictions.to("cpu", kept).reshape(-1, *predictions.shape[-2:])
    pairs = zip(tasks, targets.cpu().reshape(-1, *own), strict=True)
    values = [float(metric.function(p, t, ways)) for p, t in pairs]
    return torch.tensor(values, dtype=torch.float32).reshape(front)
