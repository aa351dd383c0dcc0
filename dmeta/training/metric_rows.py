"""The rows of metrics.jsonl that a training writes: means since the last row, and validations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dmeta.runs.progress import Progress
from dmeta.runtime.messages import StepReport
from dmeta.training.evaluation import Evaluation


def train_row(
    progress: Progress, reports: Sequence[StepReport], tasks_per_second: float, seconds: float
) -> dict[str, Any]:
    """Means over the tasks of the steps since the last row.

    Args:
        progress: after the last of the steps.
        reports: of the steps, at least one.
        tasks_per_second: in these steps.
        seconds: of the whole training so far.
    """
    good = [report for report in reports if report.applied.applied]
    blocks = [block for report in good for block in report.blocks]
    num_tasks = sum(block.block.num_slots for block in blocks)
    names = blocks[0].sums if blocks else {}
    last = reports[-1].applied
    return {
        "event": "train",
        "step": progress.step,
        **{name: sum(block.sums[name] for block in blocks) / num_tasks for name in names},
        "gradient_norm": last.gradient_norm if last.applied else None,
        "lr": last.lr,
        "rejected": progress.rejected,
        "retried_blocks": progress.retried_blocks,
        "copied_blocks": progress.copied_blocks,
        **_staleness(progress, reports),
        "tasks_per_second": tasks_per_second,
        "seconds": seconds,
    }


def _staleness(progress: Progress, reports: Sequence[StepReport]) -> dict[str, Any]:
    """How far behind the gradients were, if they may be at all."""
    found = Counter(steps for report in reports for steps in report.staleness)
    if not found:
        return {}
    return {
        "staleness": sum(steps * count for steps, count in found.items()) / found.total(),
        "staleness_counts": [found[steps] for steps in range(max(found) + 1)],
        "stale_blocks": progress.stale_blocks,
        "dropped_blocks": progress.dropped_blocks,
    }


def val_row(progress: Progress, evaluation: Evaluation, seconds: float) -> dict[str, Any]:
    """An evaluation on validation tasks.

    Args:
        progress: with the evaluation among its best, if it is.
        evaluation: of the model after the step.
        seconds: of the whole training so far.
    """
    metric = evaluation.metric
    counts = evaluation.num_undefined
    further: dict[str, Any] = {}
    for name, each in evaluation.further.items():
        further[name] = each.transductive.mean
        further[f"{name}_ci95"] = each.transductive.ci95
        further[f"{name}_non_transductive"] = each.non_transductive.mean
    return {
        "event": "val",
        "step": progress.step,
        "num_tasks": evaluation.num_tasks,
        metric: evaluation.value,
        "ci95": evaluation.ci95,
        f"{metric}_before": evaluation.transductive.mean[0],
        f"{metric}_non_transductive": evaluation.non_transductive.mean[-1],
        **further,
        **{f"{name}_undefined": count for name, count in counts.items()},
        "num_non_finite": evaluation.num_non_finite,
        "best_step": progress.best_step,
        "seconds": seconds,
    }
