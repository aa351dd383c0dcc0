"""From per-task scores to numbers that say what they are of.

Letters: M evaluated tasks, K inner steps at evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from dmeta.bilevel.types import Kind
from dmeta.runtime.protocol import BlockReport
from dmeta.tasks.source import Split
from dmeta.training.work import metric_name

Mode: TypeAlias = Literal["transductive", "non_transductive"]


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
        step: outer steps the meta-parameters had seen.
        model: always a single model here, never an ensemble.
        transductive: batch statistics (if any) of the whole query set at once.
        non_transductive: batch statistics of the support set alone.
    """

    split: Split
    num_tasks: int
    metric: str
    step: int
    model: Literal["single"]
    transductive: Curve
    non_transductive: Curve

    @property
    def value(self) -> float:
        """The headline: the mean after the last inner step, transductive."""
        return self.transductive.mean[-1]

    @property
    def ci95(self) -> float:
        """Half-width of its 95% confidence interval."""
        return self.transductive.ci95[-1]

    def is_better_than(self, value: float | None) -> bool:
        """Whether the headline beats `value`; NaN beats nothing."""
        if math.isnan(self.value):
            return False
        if value is None:
            return True
        return self.value > value if self.metric == "accuracy" else self.value < value


def summarize(reports: Sequence[BlockReport], split: Split, step: int, kind: Kind) -> Evaluation:
    """Mean and confidence interval over all tasks of the reports (in order of block)."""
    curves = {
        mode: _curve(np.concatenate([report.per_task[mode] for report in reports]))
        for mode in ("transductive", "non_transductive")
    }
    num_tasks = sum(report.block.num_slots for report in reports)
    return Evaluation(split, num_tasks, metric_name(kind), step, "single", **curves)


def _curve(scores: npt.NDArray[np.float32]) -> Curve:
    wide = scores.astype(np.float64)
    ci95 = 1.96 * wide.std(axis=0) / math.sqrt(len(wide))
    return Curve(tuple(wide.mean(axis=0).tolist()), tuple(ci95.tolist()))
