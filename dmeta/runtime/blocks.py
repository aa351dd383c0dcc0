"""Cuts the task slots of a step into blocks. Does not know who computes them."""

from __future__ import annotations

from dmeta.runtime.messages import Block, Phase


def blocks_of(
    phase: Phase,
    step: int,
    num_slots: int,
    block_size: int,
    *,
    with_predictions: bool = False,
    source: str | None = None,
) -> list[Block]:
    """The blocks of one step: `block_size` slots each, the last one with what remains.

    The cut depends on the numbers given here and never on the workers: it is part of the result,
    because floating-point addition is not associative.

    Args:
        phase: what the blocks are for.
        step: outer step; 0 for an evaluation.
        num_slots: task slots of the whole step (meta_batch_size, or evaluation tasks).
        block_size: task slots per block.
        with_predictions: of every block.
        source: likewise.
    Raises: ValueError: a number is out of its range.
    """
    if num_slots < 1:
        raise ValueError(f"num_slots must be >= 1, got {num_slots}; ask for at least one task")
    if block_size < 1:
        raise ValueError(f"block_size must be >= 1, got {block_size}; raise compute.block_size")
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step}; count steps from 0")
    return [
        Block(
            phase, step, index, first, min(block_size, num_slots - first), with_predictions, source
        )
        for index, first in enumerate(range(0, num_slots, block_size))
    ]
