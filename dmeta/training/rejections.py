"""The record of a step that was not applied: enough to compute it again."""

from __future__ import annotations

import math
from typing import Any

from dmeta.quoting import override_word
from dmeta.runtime.messages import BlockReport, StepReport
from dmeta.training.config import RunConfig
from dmeta.training.work.episodes import rng_key


def rejection_of(report: StepReport, config: RunConfig) -> dict[str, Any]:
    """A row of metrics.jsonl: the blocks to blame, with the seeds of their tasks.

    Args:
        report: of a step whose meta-gradient was dropped.
        config: of the run.

    Returns: ``event`` (``rejected``), ``step`` (steps done, this one included), ``reason``,
        ``gradient_norm`` (null if it is no number), and ``blocks``: those with a number that is not
        finite, or all if there is none, each with ``step``, ``index``, ``first_slot``,
        ``num_slots``, ``task_seeds`` (one list for each task, `numpy.random.default_rng` takes it)
        and ``sums`` over its tasks.
    """
    to_blame = [block for block in report.blocks if not block.finite]
    norm = report.applied.gradient_norm
    if to_blame:
        reason = "a number that is not finite"
    elif math.isfinite(norm):
        reason = f"a norm of {norm:.3g}, above outer.reject_norm={config.outer.reject_norm}"
    else:
        reason = "a sum of its blocks that is not finite"
    return {
        "event": "rejected",
        "step": report.applied.step + 1,
        "reason": reason,
        "gradient_norm": norm if math.isfinite(norm) else None,
        "blocks": [_described(block, config.seed) for block in to_blame or report.blocks],
    }


def rejection_line(row: dict[str, Any], run_dir: str | None, *, can_be_replayed: bool) -> str:
    """The same for people, with the command that looks at it, where there is one."""
    block = row["blocks"][0]
    if not can_be_replayed:
        return (
            f"the meta-gradient of step {row['step'] - 1} has {row['reason']} and was not applied "
            f"(block {block['index']} of step {block['step']} was part of it)"
        )
    return (
        f"the meta-gradient of step {block['step']} has {row['reason']} and was not applied; look "
        f"at it with: dmeta replay {override_word('run_dir', run_dir)} step={block['step']} "
        f"block={block['index']}"
    )


def _described(report: BlockReport, seed: int) -> dict[str, Any]:
    block = report.block
    slots = range(block.first_slot, block.first_slot + block.num_slots)
    return {
        "step": block.step,
        "index": block.index,
        "first_slot": block.first_slot,
        "num_slots": block.num_slots,
        "task_seeds": [rng_key(seed, block, slot) for slot in slots],
        # JSON has no word for what is not finite.
        "sums": {k: v if math.isfinite(v) else str(v) for k, v in report.sums.items()},
    }
