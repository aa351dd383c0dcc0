"""Progress of a run: the counts of the training loop, stored in every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from dmeta.runs.checkpoint import Checkpoint, CheckpointError
from dmeta.runtime.messages import StepReport

Ranking: TypeAlias = tuple[tuple[int, float], ...]
"""(outer step, score) of validated models, best first."""


@dataclass(frozen=True)
class Progress:
    """How far a run is; goes into every checkpoint.

    Attributes:
        step: outer steps done.
        best: steps whose validation scores are the best so far, with the scores, best first.
        rejected: steps dropped because a gradient was not finite.
        rejected_in_a_row: of those, how many just now.
        retried_blocks: blocks computed again because a worker or the server was lost.
        copied_blocks: blocks computed twice because a worker was late.
        stale_blocks: blocks computed again because their gradient came too late (async).
        dropped_blocks: blocks computed again because there was no room for their gradient.
        seconds: wall-clock seconds of training, evaluations included, over all resumes.
        fingerprint: of the settings that decide the result.
    """

    step: int
    best: Ranking
    rejected: int
    rejected_in_a_row: int
    retried_blocks: int
    seconds: float
    fingerprint: str
    copied_blocks: int = 0
    stale_blocks: int = 0
    dropped_blocks: int = 0

    @property
    def best_step(self) -> int | None:
        """The best step on validation tasks; None before the first evaluation."""
        return self.best[0][0] if self.best else None

    def after(self, report: StepReport) -> Progress:
        """The progress after one more step."""
        dropped = not report.applied.applied
        return replace(
            self,
            step=self.step + 1,
            rejected=self.rejected + dropped,
            rejected_in_a_row=self.rejected_in_a_row + 1 if dropped else 0,
            retried_blocks=self.retried_blocks + report.num_retries,
            copied_blocks=self.copied_blocks + report.num_copies,
            stale_blocks=self.stale_blocks + report.num_too_stale,
            dropped_blocks=self.dropped_blocks + report.num_dropped,
        )


def fresh(fingerprint: str) -> Progress:
    """The progress of a run that has not begun."""
    return Progress(0, (), 0, 0, 0, 0.0, fingerprint)


def progress_of(checkpoint: Checkpoint) -> Progress:
    """The progress that a checkpoint holds.

    Raises:
        CheckpointError: it holds something else.
    """
    plain = checkpoint.progress
    try:
        best = tuple((int(step), float(value)) for step, value in plain["best"])
        return Progress(**{**plain, "best": best})
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.where} must hold the progress of a run, got {error!r}; it is of another "
            "version of dmeta, or was altered: use another checkpoint"
        ) from None
