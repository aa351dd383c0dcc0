"""The parameter server of a run as Ray actors that may die; its state is kept outside of them.

It is one actor, or several, each with a part of the vector; if one is lost, all are started again.
Copies of their states lie in the object store, owned by the driver, with the blocks of the steps
taken since: a journal, from which a new server becomes what the lost one was, to the same bits.

Knows no worker: the caller says who computes the journal's blocks again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError

from dmeta.runtime.messages import (
    ApplyReport,
    Block,
    ServerState,
    num_tasks_of,
)
from dmeta.runtime.options import RuntimeOptions
from dmeta.runtime.protocol import ServerFactory
from dmeta.runtime.ray.actor_factory import ServerStarter
from dmeta.runtime.ray.calls import Actor, Pieces, Ref, is_from_the_work, raise_cause
from dmeta.runtime.ray.pace import Pace

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

    def __init__(
        self, factory: ServerFactory, starter: ServerStarter, options: RuntimeOptions
    ) -> None:
        """Start it, without waiting.

        Args:
            factory: of the whole server.
            starter: starts the actors of its parts, in their initial state.
            options: of the run.
        """
        self._factory, self._starter, self._options = factory, starter, options
        self._actors = starter.start()  # empty: closed
        self._answered = False  # have these actors
        self._snapshot: Pieces = ()  # states of the parts; none: the initial ones
        self._newer: tuple[Pieces, int] | None = None  # a snapshot on its way, after so many steps
        self._journal: list[JournalEntry] = []  # the steps since the snapshot
        self._pace = Pace(options.hung_after_s)
        self._losses, self._furthest = 0, -1  # since the step that is the furthest so far
        self.num_parameters = 0

    def vector(self) -> Pieces:
        """References of the current meta-parameters; they are there."""
        lengths, vector = zip(*(actor.vector.remote() for actor in self._open()), strict=True)
        self.num_parameters = sum(self._get(lengths, "reading the meta-parameters"))
        return vector

    def begin_apply(
        self, step: int, blocks: Sequence[Block], gradients: Sequence[Pieces]
    ) -> Applied:
        """Let the server take a step, without waiting for it."""
        actors, num_tasks, sums = self._open(), num_tasks_of(blocks), []
        if len(actors) == 1:
            returned = [actors[0].apply.remote(step, num_tasks, *(whole for (whole,) in gradients))]
        else:
            of_parts = zip(*gradients, strict=True) if gradients else [()] * len(actors)
            sums = [
                actor.gather.remote(num_tasks, *pieces)
                for actor, pieces in zip(actors, of_parts, strict=True)
            ]
            returned = [actor.commit.remote(step, *sums) for actor in actors]
        reports, vector = zip(*returned, strict=True)
        return Applied(JournalEntry(step, blocks), sums, reports, vector)

    def end_apply(self, applied: Applied) -> ApplyReport:
        """Wait for it.

        Raises:
            ServerLostError: it may, or may not, have been taken.
            ArgumentLostError: it has not.
        """
        entry = applied.entry
        self._get(applied.sums, f"gathering step {entry.step}")
        reports = self._get(applied.reports, f"applying step {entry.step}")
        seconds = max(each.seconds for each in reports)
        report: ApplyReport = dataclasses.replace(reports[0], seconds=seconds)
        self._pace.note(report.seconds)
        if entry.step > self._furthest:
            self._losses, self._furthest = 0, entry.step
        self._take_over_newer()
        if not self._journal or self._journal[-1].step != entry.step:
            self._journal.append(entry)
        if self._newer is None and len(self._journal) >= self._options.snapshot_every:
            self._newer = (self._states(), len(self._journal))
        return report

    def state(self) -> Callable[[], ServerState]:
        """`Runtime.state`."""
        refs = self._states()
        self._newer = (refs, len(self._journal))
        patience = self._pace.hung_after_s(is_first=not self._answered)
        return lambda: self._factory.joined(_resolved(refs, patience))

    def load(self, state: ServerState) -> None:
        """`Runtime.load`, and forget what was before."""
        actors = self._open()
        snapshot = tuple(ray.put(part) for part in self._factory.divided(state, len(actors)))
        self._give(snapshot, "loading a state")
        self._snapshot, self._newer, self._journal = snapshot, None, []
        self._losses, self._furthest = 0, -1

    def digest(self) -> str:
        """`Runtime.digest`."""
        first, *others = self._open()
        pieces = [actor.vector.remote()[1] for actor in others]
        [digest] = self._get([first.digest.remote(*pieces)], "taking the digest")
        return str(digest)

    def restart(self, error: ServerLostError) -> tuple[Pieces, list[JournalEntry]]:
        """Start another in its place, as it was at the last snapshot.

        Returns: references of its meta-parameters, and the steps to take again, in order; they are
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
        self._newer = None
        _LOG.warning(
            "the parameter server was lost (%s); it is started again, and %d steps are taken again",
            error,
            len(self._journal),
            extra={"step": self._furthest + 1},
        )
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        self._actors, self._answered = self._starter.start(), False
        if self._snapshot:
            try:
                self._give(self._snapshot, "loading its last state")
            except ArgumentLostError as lost:  # as any object: its node is gone
                raise RuntimeError(
                    f"the parameter server and the copy of its state were lost together ({lost}); "
                    "resume from the last checkpoint"
                ) from lost
        vector = self.vector()
        entries, self._journal = self._journal, []
        return vector, entries

    def close(self) -> list[Actor]:
        """Let go of everything; the actors, to be killed."""
        actors, self._actors = [*self._actors, *self._starter.others()], []
        self._snapshot, self._newer, self._journal = (), None, []
        return actors

    def _states(self) -> Pieces:
        """Of the parts, as they are now."""
        return tuple(self._starter.kept(actor.state.remote()) for actor in self._open())

    def _give(self, states: Pieces, doing: str) -> None:
        """Let the parts become what these are."""
        loaded = zip(self._open(), states, strict=True)
        self._get([actor.load.remote(state) for actor, state in loaded], doing)

    def _take_over_newer(self) -> None:
        """A snapshot that was on its way may have arrived; all of it, or it is not taken."""
        if self._newer is None:
            return
        refs, num_steps = self._newer
        ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        if len(ready) < len(refs):
            return
        self._newer = None
        with suppress(RayError):  # lost: the one before is still there
            ray.get(ready)
            self._snapshot, self._journal = refs, self._journal[num_steps:]

    def _get(self, refs: Sequence[Ref], doing: str) -> list[Any]:
        patience = self._pace.hung_after_s(is_first=not self._answered)
        try:
            answers: list[Any] = ray.get(list(refs), timeout=patience)
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
        return answers

    def _open(self) -> list[Actor]:
        if not self._actors:
            raise RuntimeError("the runtime must be open, got a closed one; make a new one")
        return self._actors


class Applied(NamedTuple):
    """A step that the server was asked to take, and what it will return."""

    entry: JournalEntry
    sums: Sequence[Ref]
    reports: Sequence[Ref]
    vector: Pieces


def _resolved(refs: Pieces, patience_s: float) -> list[ServerState]:
    try:
        states: list[Any] = ray.get(list(refs), timeout=patience_s)
    except RayError as error:
        raise RuntimeError(f"the server was lost before its state was read: {error}") from error
    return [ServerState(*state) for state in states]
