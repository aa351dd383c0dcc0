"""Blocks computed at the meta-parameters of earlier steps, so that no worker waits.

A step takes as many gradients as it has blocks, whichever are there first: of its own blocks, of
earlier ones that took longer, of the next step's. The *staleness* of a gradient is the number of
outer steps between the meta-parameters that it was computed at and those that it is applied to. It
is bounded (stale synchronous parallel, Ho et al. 2013): a gradient that comes too late is not
applied; its block is computed again. So every task counts once, as in a synchronous run, but which
step it counts in depends on the workers' speed: such a run is not reproducible. (A resumed one
begins with the blocks of its step: of those around it some count twice, or not at all.)

Knows the crew, and no server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from dmeta.runtime.messages import Block
from dmeta.runtime.options import RuntimeOptions
from dmeta.runtime.ray.calls import Pieces
from dmeta.runtime.ray.worker_pool import Computed, Crew

_AHEAD = 2  # blocks that a worker may hold: one that it computes, and one that it goes on with


class Taken(NamedTuple):
    """What a step is made of.

    Attributes:
        computed: as many gradients as were asked for.
        staleness: of each.
        num_too_stale: gradients that came too late, since the last step.
        num_dropped: gradients that there was no room for, since the last step.
    """

    computed: list[Computed]
    staleness: list[int]
    num_too_stale: int
    num_dropped: int


class _Waiting(NamedTuple):
    """A gradient that is there, and the version of the meta-parameters it is of."""

    computed: Computed
    version: int


class Stream:
    """The blocks of a run in their order, and their gradients in the order they come in."""

    def __init__(self, crew: Crew, options: RuntimeOptions) -> None:
        """Nothing supplied yet.

        Args:
            crew: computes the blocks.
            options: of the run.
        """
        self._crew, self._options = crew, options
        self._pending: deque[Block] = deque()
        self._next_step = 0  # the first whose blocks were not supplied
        self._asked: dict[int, tuple[Block, int]] = {}  # number -> block, version
        self._waiting: list[_Waiting] = []

    def supply(self, step: int, blocks: Sequence[Block]) -> None:
        """Blocks to be computed, unless they were supplied before."""
        if blocks and step >= self._next_step:
            self._pending.extend(blocks)
            self._next_step = step + 1

    def take(self, step: int, num_blocks: int, vector: Pieces) -> Taken:
        """The next gradients, for a step from the meta-parameters `vector`. Raises as the crew."""
        num_too_stale = self._put_back(step)
        while len(self._waiting) < num_blocks:
            self._ask(step, num_blocks, vector, num_steps=self._options.max_staleness + 1)
            for number, computed in self._crew.compute_any(self._asked.keys()).items():
                _, version = self._asked.pop(number)
                self._waiting.append(_Waiting(computed, version))
            num_too_stale += self._put_back(step)
        taken, self._waiting = self._waiting[:num_blocks], self._waiting[num_blocks:]
        num_dropped = self._make_room(num_blocks)
        # What the workers do while the server is at work is a step older when it is applied.
        self._ask(step, num_blocks, vector, num_steps=self._options.max_staleness)
        taken.sort(key=lambda each: _place(each.computed.report.block))
        staleness = [step - each.version for each in taken]
        return Taken([each.computed for each in taken], staleness, num_too_stale, num_dropped)

    def restart(self) -> int:
        """What was asked of the crew is forgotten there, and asked again.

        Returns: how many gradients were there, and are computed again.
        """
        blocks = [block for block, _ in self._asked.values()]
        blocks += [each.computed.report.block for each in self._waiting]
        num_lost, self._asked, self._waiting = len(self._waiting), {}, []
        self._again(blocks)
        return num_lost

    def _ask(self, step: int, num_blocks: int, vector: Pieces, num_steps: int) -> None:
        """Give the workers what they can take, but nothing that would surely come too late.

        Args:
            step: the next one to be taken.
            num_blocks: of a step.
            vector: the meta-parameters before it.
            num_steps: which may be made of what is asked for, and of what is there.
        """
        room = num_blocks * num_steps - len(self._waiting) - len(self._asked)
        free = _AHEAD * max(1, self._crew.num_up) - len(self._asked)
        if self._options.when_full == "block":  # what is asked for may all come before the step
            most = num_blocks + self._max_waiting(num_blocks)
            free = min(free, most - len(self._waiting) - len(self._asked))
        count = min(room, free, len(self._pending))
        if count > 0:
            blocks = [self._pending.popleft() for _ in range(count)]
            batch = self._crew.want(blocks, vector)
            self._asked |= {n: (b, step) for n, b in zip(batch.numbers, blocks, strict=True)}

    def _put_back(self, step: int) -> int:
        """Have what is too stale computed again; how many that are."""
        oldest = step - self._options.max_staleness
        stale = [each for each in self._waiting if each.version < oldest]
        self._waiting = [each for each in self._waiting if each.version >= oldest]
        self._again([each.computed.report.block for each in stale])
        return len(stale)

    def _make_room(self, num_blocks: int) -> int:
        """Have the oldest of what is too much computed again; how many."""
        excess = len(self._waiting) - self._max_waiting(num_blocks)
        if excess <= 0:
            return 0
        self._waiting.sort(key=lambda each: each.version)
        dropped, self._waiting = self._waiting[:excess], self._waiting[excess:]
        self._again([each.computed.report.block for each in dropped])
        return len(dropped)

    def _max_waiting(self, num_blocks: int) -> int:
        most = self._options.max_waiting
        return num_blocks if most is None else most

    def _again(self, blocks: Sequence[Block]) -> None:
        """Before what has not been asked for yet, in their order."""
        self._pending.extendleft(sorted(blocks, key=_place, reverse=True))


def _place(block: Block) -> tuple[int, int]:
    return block.step, block.index
