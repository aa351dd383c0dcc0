"""What happens when: a list of faults, each at a step or at a time, made from a seed. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_EVENT = re.compile(r"(?P<fault>[a-z0-9_]+)@(?P<at>\d+(?:\.\d+)?)(?P<unit>s?)")


@dataclass(frozen=True)
class Event:
    """A fault that comes at a step, or some seconds after the first step.

    Attributes:
        fault: its name.
        at_step: outer steps done; None if it comes at a time.
        at_s: seconds after the first step; None if it comes at a step.
    """

    fault: str
    at_step: int | None = None
    at_s: float | None = None

    def __post_init__(self) -> None:
        """Exactly one of the two must be given."""
        if (self.at_step is None) == (self.at_s is None):
            raise ValueError(f"{self.fault} must come at a step or at a time, got {self}")

    def is_due(self, step: int, seconds: float) -> bool:
        """Whether it is time."""
        if self.at_step is not None:
            return step >= self.at_step
        assert self.at_s is not None
        return seconds >= self.at_s


def parse(words: Sequence[str]) -> tuple[Event, ...]:
    """``worker_kill@60 server_kill@12.5s``: at step 60, and 12.5 seconds after the first step.

    Raises:
        ValueError: a word is not of this form.
    """
    events = []
    for word in words:
        match = _EVENT.fullmatch(word)
        if match is None or (not match["unit"] and "." in match["at"]):
            raise ValueError(f"an event must be FAULT@STEP or FAULT@SECONDSs, got {word!r}")
        if match["unit"]:
            events.append(Event(match["fault"], at_s=float(match["at"])))
        else:
            events.append(Event(match["fault"], at_step=int(match["at"])))
    return tuple(events)


def repeated(
    fault: str, first_s: float, every_s: float | None, until_s: float
) -> tuple[Event, ...]:
    """One fault, once or every so many seconds."""
    if every_s is None:
        return (Event(fault, at_s=first_s),)
    count = max(1, int((until_s - first_s) // every_s) + 1)
    return tuple(Event(fault, at_s=first_s + i * every_s) for i in range(count))


def mixed(
    weights: Mapping[str, float], seed: int, first_s: float, every_s: float, until_s: float
) -> tuple[Event, ...]:
    """Faults drawn by their weights, about `every_s` apart (a half more or less), from a seed."""
    draw = random.Random(seed)
    names, amounts = zip(*sorted(weights.items()), strict=True)
    events = []
    now = first_s
    while now < until_s:
        [name] = draw.choices(names, amounts)
        events.append(Event(name, at_s=round(now, 2)))
        now += every_s * draw.uniform(0.5, 1.5)
    return tuple(events)
