"""What was seen, as JSON for programs and as a table for people. Pure, but for the file."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.effects import Occurrence
from tests.chaos.processes import Memory
from tests.chaos.training import Recipe

_MAX_MEMORY_POINTS = 200
_MAX_QUOTED = 5
_HEAD = ("fault", "how often", "noticed after", "going on after", "steps recomputed", "same bits")


@dataclass(frozen=True)
class Outcome:
    """One training under a schedule.

    Attributes:
        title: what was tried.
        recipe: what was trained.
        occurrences: faults, in order.
        notes: what the operator had to do.
        num_resumes: how often the driver was started again.
        steps: outer steps of the whole training.
        digest: SHA-256 of the parameters; None: there was no result.
        orphans: processes that were still there 10 s after the driver's end.
        undisturbed_steps_per_s: before the first fault; None: too short.
        disturbed_steps_per_s: from the first fault to the end of the schedule.
        seconds: in all.
        memory: resident memory, over time.
        clean_digest: of an undisturbed training; None: not known.
    """

    title: str
    recipe: Recipe
    occurrences: Sequence[Occurrence]
    notes: Sequence[str]
    num_resumes: int
    steps: int
    digest: str | None
    orphans: Sequence[str]
    undisturbed_steps_per_s: float | None
    disturbed_steps_per_s: float | None
    seconds: float
    memory: Sequence[Memory] = field(repr=False)
    clean_digest: str | None = None

    @property
    def same_bits(self) -> bool | None:
        """Whether it ended as the undisturbed one; None: it did not end."""
        return None if self.digest is None else self.digest == self.clean_digest

    @property
    def throughput_kept(self) -> float | None:
        """Share of the undisturbed steps a second that was kept under the faults."""
        return share(self.disturbed_steps_per_s, self.undisturbed_steps_per_s)


def share(part: float | None, whole: float | None) -> float | None:
    """One of the other; None: unknown."""
    return None if part is None or not whole else part / whole


def table(outcomes: Iterable[Outcome]) -> str:
    """A line for each kind of fault of each training, in Markdown."""
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    for outcome in outcomes:
        kinds: dict[str, list[Occurrence]] = {}
        for occurrence in outcome.occurrences:
            kinds.setdefault(occurrence.fault, []).append(occurrence)
        for name, found in kinds.items():
            lines.append(_line(_cells(name, found, outcome)))
        if not kinds:
            lines.append(_line(_cells_of_conditions(outcome)))
    return "\n".join(lines) + "\n"


def summary(outcome: Outcome) -> str:
    """What the table does not say: resumes, throughput, memory, orphans, notes."""
    kept = outcome.throughput_kept
    lines = [
        f"{outcome.title}: {outcome.steps} steps in {outcome.seconds:.0f} s, "
        f"{outcome.num_resumes} resumes, same bits: {_yes(outcome.same_bits)}"
    ]
    if kept is not None:
        before, under = outcome.undisturbed_steps_per_s, outcome.disturbed_steps_per_s
        lines.append(f"  steps a second: {before:.1f}, under faults {under:.1f}: {kept:.1%} kept")
    lines += [f"  memory of {line}" for line in _memory_lines(outcome.memory)]
    lines.append(f"  orphans: {', '.join(outcome.orphans) or 'none'}")
    lines += [f"  note: {note}" for note in outcome.notes]
    for occurrence in outcome.occurrences[:_MAX_QUOTED]:
        lines += [f"  after {occurrence.fault} it said: {said}" for said in occurrence.said]
    return "\n".join(lines)


def write(outcomes: Sequence[Outcome], path: Path) -> None:
    """All of it, as JSON."""
    plain: list[dict[str, Any]] = []
    for outcome in outcomes:
        thinned = outcome.memory[:: len(outcome.memory) // _MAX_MEMORY_POINTS + 1]
        kept = dataclasses.asdict(dataclasses.replace(outcome, memory=thinned))
        derived = {"same_bits": outcome.same_bits, "throughput_kept": outcome.throughput_kept}
        plain.append(kept | derived)
    path.write_text(json.dumps({"outcomes": plain, "table": table(outcomes)}, indent=1))


def _cells(name: str, found: Sequence[Occurrence], outcome: Outcome) -> list[str]:
    resumes = sum(o.num_resumes for o in found)
    hangs = sum(o.num_hangs for o in found)
    resumed = f", killed {hangs} times as it hung" if hangs else ""
    resumed += f", resumed {resumes} times" if resumes else ""
    return [
        name,
        str(len(found)),
        _seconds([o.noticed_after_s for o in found], "not noticed"),
        _seconds([o.going_on_after_s for o in found], "did not go on") + resumed,
        str(sum(o.steps_recomputed for o in found)),
        _yes(outcome.same_bits),
    ]


def _cells_of_conditions(outcome: Outcome) -> list[str]:
    resumed = f"resumed {outcome.num_resumes} times" if outcome.num_resumes else "did not stop"
    return [outcome.title, "throughout", "", resumed, "", _yes(outcome.same_bits)]


def _seconds(values: Sequence[float | None], missing: str) -> str:
    known = [value for value in values if value is not None]
    without = len(values) - len(known)
    if not known:
        return missing
    words = f"{statistics.median(known):.1f} s"
    if len(known) > 1:
        words += f" (max {max(known):.1f} s)"
    return words + (f", {without} times {missing}" if without else "")


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "NO", None: "no result"}[value]


def _memory_lines(points: Sequence[Memory]) -> list[str]:
    roles = sorted({role for point in points for role in point.resident_bytes})
    lines = []
    for role in roles:
        sizes = [p.resident_bytes[role] / 1e6 for p in points if role in p.resident_bytes]
        half = max(sizes[: len(sizes) // 2 + 1])
        lines.append(
            f"{role}: {half:.0f} MB at most in the first half, {max(sizes):.0f} MB in all, "
            f"{sizes[-1]:.0f} MB last"
        )
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
