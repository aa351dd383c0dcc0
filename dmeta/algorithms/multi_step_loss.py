"""Weights of the query losses after every inner step: MAML++'s multi-step loss."""

from __future__ import annotations


def multi_step_weights(num_steps: int, progress: float) -> dict[int, float]:
    """Number of inner steps -> weight of the query loss after so many; they sum to 1.

    As in MAML++'s code (github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch): 1/K each at first,
    falling linearly to 0 but never below 0.03/K for all but the last, which takes the rest.

    Args:
        num_steps: K, at least 1.
        progress: from 0 to 1, how much of the annealing is done.
    """
    each = max(1 - progress, 0.03) / num_steps
    before = dict.fromkeys(range(1, num_steps), each)
    return {**before, num_steps: 1 - (num_steps - 1) * each}
