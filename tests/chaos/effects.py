"""What came of a fault, as far as it can be seen from outside."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.training import Said, Seen, Training

_GOING_ON = re.compile(r"going on after step (\d+)/")
_NUM_SAID = 10

HUNG = "did not go on"
"""How a note begins of a driver that had to be killed."""


@dataclass(frozen=True)
class Occurrence:
    """A fault that was applied, and what followed until steps went on.

    Attributes:
        fault: its name.
        at_s: when, on the clock of this process.
        step: the last step seen before.
        noticed_after_s: seconds until the training said so; None: it did not.
        going_on_after_s: seconds until the first step that the fault can have met; None: never.
        longest_pause_s: the longest time without a step, meanwhile.
        steps_recomputed: steps that a resume took again.
        blocks_recomputed: blocks that were computed again within their step.
        num_resumes: how often the driver had to be started again.
        num_hangs: how often it had to be killed for that, as it took no step any more.
        notes: what the operator had to do.
        said: what the training said of it.
    """

    fault: str
    at_s: float
    step: int
    noticed_after_s: float | None
    going_on_after_s: float | None
    longest_pause_s: float
    steps_recomputed: int
    blocks_recomputed: int
    num_resumes: int
    num_hangs: int
    notes: Sequence[str]
    said: Sequence[str]


class Before:
    """A training as it is just before a fault, to compare with."""

    def __init__(self, training: Training, at_s: float) -> None:
        """Keeps the time, and how far it is."""
        self.at_s = at_s
        self._training = training
        self._step, self._retried = training.step, training.retried_blocks
        self._copied = training.copied_blocks
        self._num_rows, self._num_lines = len(training.rows), len(training.lines)
        self._num_launches = len(training.launches_s)

    def went_on_s(self) -> float | None:
        """When the first step was done that the fault can have met: not the next, but one.

        Of a driver that was started again, its first.
        """
        launches_s = self._training.launches_s[self._num_launches :]
        for row in self._training.rows[self._num_rows :]:
            if row.at_s > launches_s[-1] if launches_s else row.step > self._step + 1:
                return row.at_s
        return None

    def goes_on_after(self, moment_s: float) -> bool:
        """Whether a step was done after both the fault and a moment."""
        on_s, rows = self.went_on_s(), self._training.rows
        return on_s is not None and rows[-1].at_s > moment_s

    def occurrence(self, fault: str, notes: Sequence[str]) -> Occurrence:
        """What came of it so far."""
        training = self._training
        rows, lines = training.rows[self._num_rows :], training.lines[self._num_lines :]
        launches_s = training.launches_s[self._num_launches :]
        noticed_s = [line.at_s for line in lines if line.is_notice]
        noticed_s += [
            row.at_s
            for row in rows
            if row.retried_blocks > self._retried or row.copied_blocks > self._copied
        ]
        on_s = self.went_on_s()
        return Occurrence(
            fault=fault,
            at_s=self.at_s,
            step=self._step,
            noticed_after_s=min(noticed_s) - self.at_s if noticed_s else None,
            going_on_after_s=None if on_s is None else on_s - self.at_s,
            longest_pause_s=longest_pause(rows, self.at_s),
            steps_recomputed=lost_steps(training.rows, lines, launches_s),
            blocks_recomputed=max(0, training.retried_blocks - self._retried),
            num_resumes=len(launches_s),
            num_hangs=sum(note.startswith(HUNG) for note in notes),
            notes=list(notes),
            said=[line.text.strip()[:300] for line in lines if line.is_notice][:_NUM_SAID],
        )


def longest_pause(rows: Sequence[Seen], since_s: float) -> float:
    """The longest time without a line of metrics, from `since_s` to the last of them."""
    moments = [since_s, *(row.at_s for row in rows)]
    return max((b - a for a, b in itertools.pairwise(moments)), default=0.0)


def lost_steps(rows: Sequence[Seen], lines: Sequence[Said], launches_s: Sequence[float]) -> int:
    """Steps that were seen, and taken again by the drivers launched since."""
    lost = 0
    for launched_s in launches_s:
        done = max((row.step for row in rows if row.at_s <= launched_s), default=0)
        lost += max(0, done - resumed_from(lines, launched_s))
    return lost


def resumed_from(lines: Sequence[Said], since_s: float) -> int:
    """The step that the first driver started since then said it goes on from; 0: from none."""
    for line in lines:
        if line.at_s >= since_s and (match := _GOING_ON.match(line.text)):
            return int(match[1])
    return 0


def rate(rows: Sequence[Seen], from_s: float, to_s: float) -> float | None:
    """Steps a second between two moments; what a resume took again counts once. None: unknown."""
    within = [row for row in rows if from_s <= row.at_s <= to_s]
    if len(within) < 2 or to_s <= from_s:
        return None
    before = max((row.step for row in rows if row.at_s < from_s), default=within[0].step)
    return max(0, max(row.step for row in within) - before) / (to_s - from_s)
