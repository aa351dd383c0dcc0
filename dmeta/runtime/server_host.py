"""The parameter server of a run as a Ray actor that may die: what it was is kept outside of it.

Copies of its state lie in the object store, owned by the driver, with the blocks of the steps taken
since: a journal, from which a new server becomes what the lost one was, to the same bits.

Knows no worker: who computes the journal's blocks again is told by the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError

from dmeta.runtime.options import RuntimeOptions
from dmeta.runtime.pace import Pace
from dmeta.runtime.protocol import ApplyReport, Block, ServerState, num_tasks_of
from dmeta.runtime.remote import Actor, Ref, is_from_the_work, raise_cause

_LOG = logging.getLogger(__name__)


class ServerLostError(RuntimeError):
    """The server died, or does not answer: `ServerHost.restart` it."""


class ArgumentLostError(RuntimeError):
    """What the server was to be given, a gradient say, went with its node; it has not run."""


class JournalEntry(NamedTuple):
    """A step that the server has applied."""

    step: int
    blocks: Sequence[Block]


class ServerHost:
    """Starts the server, speaks with it, and keeps what a new one needs.

    Attributes:
        num_parameters: length of the vector, once it has been read.
    """

    def __init__(self, start: Callable[[], Actor], options: RuntimeOptions) -> None:
        """Start it, without waiting.

        Args:
            start: starts an actor that holds the server in its initial state.
            options: of the run.
        """
        self._start, self._options = start, options
        self._actor: Actor | None = start()
        self._answered = False  # has this actor
        self._snapshot: Ref | None = None  # None: the initial state
        self._newer: tuple[Ref, int] | None = None  # a snapshot on its way, after so many steps
        self._journal: list[JournalEntry] = []  # the steps since the snapshot
        self._pace = Pace(options.hung_after_s)
        self._losses, self._furthest = 0, -1  # since the step that is the furthest so far
        self.num_parameters = 0

    def vector(self) -> Ref:
        """Reference of the current meta-parameters; they are there."""
        length, vector = self._open().vector.remote()
        self.num_parameters = self._get(length, "reading the meta-parameters")
        return vector

    def begin_apply(self, step: int, blocks: Sequence[Block], gradients: Sequence[Ref]) -> Applied:
        """Let the server take a step, without waiting for it."""
        report, vector = self._open().apply.remote(step, num_tasks_of(blocks), *gradients)
        return Applied(JournalEntry(step, blocks), report, vector)

    def end_apply(self, applied: Applied) -> ApplyReport:
        """Wait for it.

        Raises:
            ServerLostError: it may, or may not, have been taken.
            ArgumentLostError: it has not.
        """
        entry = applied.entry
        report: ApplyReport = self._get(applied.report, f"applying step {entry.step}")
        self._pace.note(report.seconds)
        if entry.step > self._furthest:
            self._losses, self._furthest = 0, entry.step
        if self._newer is not None:  # the server works in order: that snapshot is complete
            self._snapshot, num_steps = self._newer
            self._journal, self._newer = self._journal[num_steps:], None
        if not self._journal or self._journal[-1].step != entry.step:
            self._journal.append(entry)
        if len(self._journal) >= self._options.snapshot_every:
            self._newer = (self._open().state.remote(), len(self._journal))
        return report

    def state(self) -> Callable[[], ServerState]:
        """`Runtime.state`."""
        ref = self._open().state.remote()
        self._newer = (ref, len(self._journal))
        patience = self._pace.hung_after_s(is_first=not self._answered)
        return lambda: _resolved(ref, patience)

    def load(self, state: ServerState) -> None:
        """`Server.load`, and forget what was before."""
        snapshot = ray.put(state)
        self._get(self._open().load.remote(snapshot), "loading a state")
        self._snapshot, self._newer, self._journal = snapshot, None, []
        self._losses, self._furthest = 0, -1

    def digest(self) -> str:
        """`Server.digest`."""
        digest: str = self._get(self._open().digest.remote(), "taking the digest")
        return digest

    def restart(self, error: ServerLostError) -> tuple[Ref, list[JournalEntry]]:
        """Start another in its place, as it was at the last snapshot.

        Returns: reference of its meta-parameters, and the steps to take again, in order; they are
            no longer in the journal.

        Raises:
            RuntimeError: it has been lost too often at one step.
            ServerLostError: this one is lost, too.
        """
        self._losses += 1
        if self._losses >= self._options.max_attempts:
            raise RuntimeError(
                f"the parameter server must answer, lost {self._losses} times at one step "
                f"(runtime.max_attempts), the last time: {error}; resume from the last checkpoint"
            ) from error
        self._take_over_newer()
        _LOG.warning(
            "the parameter server was lost (%s); it is started again, and %d steps are taken again",
            error,
            len(self._journal),
            extra={"step": self._furthest + 1},
        )
        if self._actor is not None:
            ray.kill(self._actor, no_restart=True)
        self._actor, self._answered = self._start(), False
        if self._snapshot is not None:
            try:
                self._get(self._actor.load.remote(self._snapshot), "loading its last state")
            except ArgumentLostError as lost:  # as any object: its node is gone
                raise RuntimeError(
                    f"the parameter server and the copy of its state were lost together ({lost}); "
                    "resume from the last checkpoint"
                ) from lost
        vector = self.vector()
        entries, self._journal = self._journal, []
        return vector, entries

    def close(self) -> Actor | None:
        """Let go of everything; the actor, to be killed."""
        actor, self._actor = self._actor, None
        self._snapshot, self._newer, self._journal = None, None, []
        return actor

    def _take_over_newer(self) -> None:
        """The snapshot that was on its way when the server was lost may have arrived."""
        if self._newer is None:
            return
        (ref, num_steps), self._newer = self._newer, None
        with suppress(RayError):
            ready, _ = ray.wait([ref], timeout=0)
            if ready:
                ray.get(ref)
                self._snapshot, self._journal = ref, self._journal[num_steps:]

    def _get(self, ref: Ref, doing: str) -> Any:
        patience = self._pace.hung_after_s(is_first=not self._answered)
        try:
            answer = ray.get(ref, timeout=patience)
        except GetTimeoutError:
            raise ServerLostError(f"no answer for {patience:.0f} s while {doing}") from None
        except ObjectLostError as error:
            raise ArgumentLostError(str(error)) from error
        except RayError as error:
            if is_from_the_work(error):
                raise_cause(error)
            cause = str(error).strip().splitlines()[0]
            raise ServerLostError(f"{type(error).__name__} while {doing}: {cause}") from error
        self._answered = True
        return answer

    def _open(self) -> Actor:
        if self._actor is None:
            raise RuntimeError("the runtime must be open, got a closed one; make a new one")
        return self._actor


class Applied(NamedTuple):
    """A step that the server was told to take, and what it will return."""

    entry: JournalEntry
    report: Ref
    vector: Ref


def _resolved(ref: Ref, patience_s: float) -> ServerState:
    try:
        state: Any = ray.get(ref, timeout=patience_s)
    except RayError as error:
        raise RuntimeError(f"the server was lost before its state was read: {error}") from error
    return ServerState(*state)
