"""Coordinates workers and server: a step is taken, whatever is lost on the way.

The driver holds references, never the vector or a gradient: the server returns its vector, the
workers take it from the object store and return gradients there, the server takes those. The
workers are in `dmeta.runtime.ray.worker_pool`, the server is in
`dmeta.runtime.ray.server_client`; this module joins them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from dmeta.runtime.messages import (
    ApplyReport,
    Block,
    BlockReport,
    ServerState,
    StepReport,
)
from dmeta.runtime.options import RuntimeOptions
from dmeta.runtime.ray.actors import WorkerStatus
from dmeta.runtime.ray.calls import Actor, Pieces
from dmeta.runtime.ray.free_capacity import Room
from dmeta.runtime.ray.gather import Tree, way_of
from dmeta.runtime.ray.server_client import ArgumentLostError, ServerHost, ServerLostError
from dmeta.runtime.ray.stale_gradients import Stream, Taken
from dmeta.runtime.ray.worker_pool import Batch, Computed, Crew

_LOG = logging.getLogger(__name__)

_ITEM_BYTES = {"float32": 4, "bfloat16": 2}

_Answer = TypeVar("_Answer")


class Team:
    """A crew and a server (see `dmeta.runtime.protocol.Runtime` for what is public).

    Attributes:
        crew: the workers.
        host: of the server.
        tree: adds gradients on their nodes; None: the server adds every one.
        room: for more workers; None: no more are wanted.
    """

    def __init__(
        self,
        crew: Crew,
        host: ServerHost,
        options: RuntimeOptions,
        start_adder: Callable[[str], Actor],
        num_blocks: int,
        gradient_precision: Literal["float32", "bfloat16"],
    ) -> None:
        """Nothing is waited for yet: `begin` does.

        Args:
            crew: the workers, being started.
            host: of the server, being started.
            options: of the run.
            start_adder: starts an `AdderActor` on a node.
            num_blocks: of a step.
            gradient_precision: in which gradients travel.
        """
        self.crew, self.host = crew, host
        self.tree: Tree | None = None
        self._options, self._start_adder, self._num_blocks = options, start_adder, num_blocks
        self._gradient_precision = gradient_precision
        self.room: Room | None = None
        self._vector: Pieces = ()
        self._begun: Batch | None = None  # the next step's blocks
        self._stream: Stream | None = None  # None: synchronous
        self._num_nodes = 0  # that the way of the gradients was chosen for
        self._num_recomputed = 0  # blocks, because gradients or the server were lost
        self._waited_s = 0.0  # for the server in the last step, beyond its own work

    def begin(self) -> list[WorkerStatus]:
        """Wait until the workers and the server are built; what the workers say of themselves."""
        statuses = self.crew.wait_until_built()
        self._vector = self.host.vector()
        self.tree = self._tree()
        if self._options.mode == "async":
            self._stream = Stream(self.crew, self._options)
            _LOG.warning(
                "runtime.mode=async: which step a task counts in depends on the workers' speed; no "
                "two runs have the same bits"
            )
        return statuses

    def actors(self) -> list[Actor]:
        """To be killed at the end."""
        adders = [] if self.tree is None else self.tree.actors()
        return [*self.crew.actors(), *self.host.close(), *adders]

    def step(
        self, step: int, blocks: Sequence[Block], upcoming: Sequence[Block] = ()
    ) -> StepReport:
        """Compute every block on some worker, then let the server take the outer step.

        The workers get their first blocks of the next step while the server is at work: they
        start as soon as its vector is there, without waiting for the driver.

        Raises:
            RuntimeError: a block, or the server, was lost `max_attempts` times, or no worker is
                left.
            Exception: what the work itself raised, with a note that names the block.
        """
        started = time.perf_counter()
        self._grow()
        before = self.crew.num_retries + self._num_recomputed, self.crew.num_copies
        taken: Taken | None = None
        if self._stream is not None:
            taken = self._taken(self._stream, step, blocks, upcoming)
            blocks, upcoming = [result.report.block for result in taken.computed], ()
        computed, applied = self._take(step, blocks, upcoming, taken)
        if (
            taken is not None and computed is not taken.computed
        ):  # lost, and computed again just now
            taken = taken._replace(staleness=[0] * len(computed))
        return StepReport(
            [result.report for result in computed],
            applied,
            self.crew.num_retries + self._num_recomputed - before[0],
            self.crew.num_copies - before[1],
            time.perf_counter() - started,
            self._measures(computed),
            *(taken[1:] if taken is not None else ()),
        )

    def evaluate(self, blocks: Sequence[Block]) -> Sequence[BlockReport]:
        """Evaluate every block on some worker; raises as `step` does."""
        try:
            found = self.crew.compute(self.crew.want(blocks, self._vector))
        except BaseException:
            self._forget()
            raise
        return [result.report for result in found]

    def state(self) -> Callable[[], ServerState]:
        """See `dmeta.runtime.protocol.Runtime.state`."""
        return self.host.state()

    def load(self, state: ServerState) -> None:
        """See `dmeta.runtime.protocol.Runtime.load`."""
        self._forget()
        if self._stream is not None:
            self._stream = Stream(self.crew, self._options)
        self._ask(lambda host: host.load(state))
        self._vector = self._ask(lambda host: host.vector())

    def digest(self) -> str:
        """SHA-256 (hex) of the current meta-parameters."""
        return self._ask(lambda host: host.digest())

    def _tree(self) -> Tree | None:
        self._num_nodes = self.crew.num_nodes
        way = self._options.reduce
        if way in ("auto", "sharded"):
            size_bytes = _ITEM_BYTES["float32"] * self.host.num_parameters
            way = way_of(self._num_blocks, size_bytes, self.crew.num_nodes)
        return Tree(self._start_adder) if way == "tree" else None

    def _grow(self) -> None:
        """Start workers on nodes that have joined."""
        room = 0 if self.room is None else self.room.num_workers
        if room > self.crew.num_workers:
            _LOG.warning("the cluster has room for %d workers now; they join the run", room)
            self.crew.grow(room)
        if self.tree is None and self.crew.num_nodes > self._num_nodes:
            self.tree = self._tree()

    def _taken(
        self, stream: Stream, step: int, blocks: Sequence[Block], upcoming: Sequence[Block]
    ) -> Taken:
        """What is there first."""
        stream.supply(step, blocks)
        stream.supply(step + 1, upcoming)
        try:
            return stream.take(step, len(blocks), self._vector)
        except BaseException:
            self._forget()
            raise

    def _take(
        self,
        step: int,
        blocks: Sequence[Block],
        upcoming: Sequence[Block] = (),
        taken: Taken | None = None,
    ) -> tuple[list[Computed], ApplyReport]:
        """Take one step, whatever is lost on the way."""
        num_attempts = 0 if taken is None else 1
        computed = None if taken is None else taken.computed
        while True:
            try:
                if computed is None:
                    num_attempts += 1
                    computed = self.crew.compute(self._wanted(blocks))
                handed_over = time.perf_counter()
                applied = self._apply(step, blocks, computed, upcoming)
                self._waited_s = max(0.0, time.perf_counter() - handed_over - applied.seconds)
                return computed, applied
            except ArgumentLostError as error:
                if num_attempts == self._options.max_attempts:
                    raise RuntimeError(
                        f"step {step} must get its gradients, lost some {num_attempts} times "
                        f"(runtime.max_attempts): {error}; resume from the last checkpoint"
                    ) from error
                _LOG.warning(
                    "a gradient of step %d was lost; computing the step again",
                    step,
                    extra={"step": step},
                )
                self._forget()
                computed = None
                self._num_recomputed += len(blocks)
            except ServerLostError as error:
                self._recover(error)  # and then apply the same gradients again

    def _apply(
        self,
        step: int,
        blocks: Sequence[Block],
        computed: Sequence[Computed],
        upcoming: Sequence[Block],
    ) -> ApplyReport:
        accepted = all(result.report.finite for result in computed)
        gradients = self._gathered(computed) if accepted else []
        before = self._vector
        applied = self.host.begin_apply(step, blocks, gradients)
        self._vector = applied.vector
        self._begun = self.crew.want(upcoming, self._vector) if upcoming else None
        try:
            return self.host.end_apply(applied)
        except BaseException:
            self._vector = before
            raise

    def _gathered(self, computed: Sequence[Computed]) -> list[Pieces]:
        if self.tree is not None:
            return self.tree.gather(computed)
        return [result.gradient for result in computed]

    def _measures(self, computed: Sequence[Computed]) -> dict[str, list[float]]:
        """Of the last step (see `StepReport.measures`)."""
        accepted = all(result.report.finite for result in computed)
        size = _ITEM_BYTES[self._gradient_precision] * self.host.num_parameters
        return {
            "workers": [self.crew.num_up],
            "server_wait_seconds": [self._waited_s],
            "bytes_to_server": [size * len(computed)] if accepted else [],
            "bytes_from_server": [_ITEM_BYTES["float32"] * self.host.num_parameters],
        }

    def _wanted(self, blocks: Sequence[Block]) -> Batch:
        """What was begun of the blocks, or all of them from the beginning."""
        begun, self._begun = self._begun, None
        if begun is not None and list(begun.blocks) == list(blocks):
            return begun
        if begun is not None:
            self.crew.forget()
        return self.crew.want(blocks, self._vector)

    def _recover(self, lost: ServerLostError) -> None:
        """Make the server what it was: from its last snapshot, by the steps taken since."""
        self._forget()
        while True:
            try:
                self._vector, entries = self.host.restart(lost)
                break
            except ServerLostError as error:
                lost = error
        for entry in entries:  # lost again, the server is first brought to where it was
            self._take(entry.step, entry.blocks)
            self._num_recomputed += len(entry.blocks)

    def _ask(self, question: Callable[[ServerHost], _Answer]) -> _Answer:
        while True:
            try:
                return question(self.host)
            except ServerLostError as error:
                self._recover(error)

    def _forget(self) -> None:
        """What the workers are at is not wanted; they are asked again where it is."""
        self._begun = None
        self.crew.forget()
        if self._stream is not None:
            self._num_recomputed += self._stream.restart()
