"""The task workers of a run at work: they get blocks, return results, and are watched.

`dmeta.runtime.ray.schedule` decides what a lost or late worker means; this module carries it out.
Who the workers are is in `dmeta.runtime.ray.worker_registry`. Knows no server: the meta-parameters
are a reference that it hands on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from dmeta.runtime.messages import Block, BlockReport, Hardware
from dmeta.runtime.options import RuntimeOptions
from dmeta.runtime.ray.actors import WorkerStatus
from dmeta.runtime.ray.calls import Actor, Pieces, Ref, is_from_the_work, raise_cause
from dmeta.runtime.ray.missing_workers import MissingWorkers
from dmeta.runtime.ray.schedule import RoundFailed, Schedule
from dmeta.runtime.ray.stragglers import Patience
from dmeta.runtime.ray.worker_registry import News, Roster
from dmeta.runtime.worker_warnings import Warnings

_LOG = logging.getLogger(__name__)

_LEAST_WAIT_S, _MOST_WAIT_S = 0.01, 5.0


class Computed(NamedTuple):
    """A block's result.

    Attributes:
        report: the small part.
        gradient: references of the large part; none for an evaluation.
        node: where that lies, as Ray names it.
    """

    report: BlockReport
    gradient: Pieces
    node: str


class Batch(NamedTuple):
    """Blocks that are wanted at certain meta-parameters, and their numbers in the schedule."""

    blocks: Sequence[Block]
    numbers: range


class _Call(NamedTuple):
    """A block in flight on a worker."""

    worker: int
    number: int
    block: Block
    gradient: Pieces


class Crew:
    """The workers. Blocks are asked for with `want`, and waited for with `compute`.

    Attributes:
        warnings: of the blocks' reports.
    """

    def __init__(
        self,
        start: Callable[[int], Actor],
        factory: Ref,
        num_workers: int,
        options: RuntimeOptions,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the workers, without waiting for them.

        Args:
            start: starts the one of a number.
            factory: of the work; each worker builds its own from it.
            num_workers: how many.
            options: of the run.
            check: is called often while blocks are waited for; raises what ends that.
        """
        self._check = check
        self._options = options
        self.warnings = Warnings()
        self._roster = Roster(
            start, factory, options.max_attempts, lambda text: self.warnings.note([text])
        )
        self._least = min(num_workers, options.min_workers or 1)
        self._schedule = Schedule(
            (),
            max_attempts=options.max_attempts,
            min_workers=self._least,
            is_endless=options.mode == "async",
        )
        self._vectors: dict[int, tuple[Block, Pieces]] = {}  # number -> where it is computed
        self._results: dict[int, Computed] = {}
        self._calls: dict[Ref, _Call] = {}
        self._patience = Patience(options.hung_after_s)
        self._missing = MissingWorkers()
        self.grow(num_workers)

    def grow(self, num_workers: int) -> None:
        """Start as many workers as are missing; they get blocks as soon as they are built."""
        for worker in self._roster.grow(num_workers):
            self._schedule.away(worker)

    @property
    def num_workers(self) -> int:
        """Those that answer, are waited for, or were given up: no others take their places."""
        return self._roster.num_workers

    @property
    def num_retries(self) -> int:
        """Blocks computed again so far because their worker was lost."""
        return self._schedule.num_retries

    @property
    def num_copies(self) -> int:
        """Blocks computed twice so far because a worker was late."""
        return self._schedule.num_copies

    @property
    def num_up(self) -> int:
        """Workers that answer."""
        return self._schedule.num_up

    @property
    def hardware(self) -> tuple[Hardware, ...]:
        """What the workers compute on."""
        return self._roster.hardware

    @property
    def num_nodes(self) -> int:
        """On which workers are, or were."""
        return self._roster.num_nodes

    def wait_until_built(self) -> list[WorkerStatus]:
        """`Roster.wait_until_built`, for `min_workers` if that is set."""
        heard = self._roster.wait_until_built(self._options.min_workers)
        for news, _ in heard:
            self._follow(news)
        return [status for _, status in heard if status is not None]

    def want(self, blocks: Sequence[Block], vector: Pieces) -> Batch:
        """Ask for blocks at the meta-parameters `vector`; the first are begun at once."""
        batch = Batch(blocks, self._schedule.want(len(blocks)))
        for number, block in zip(batch.numbers, blocks, strict=True):
            self._vectors[number] = (block, vector)
        self._submit()
        return batch

    def compute(self, batch: Batch) -> list[Computed]:
        """Wait for the blocks that were asked for; their results, in their order.

        Raises:
            RuntimeError: a block was lost `max_attempts` times, or no worker is left.
            Exception: what the work itself raised, with a note that names the block.
        """
        self._patience.begins(batch.numbers)  # the meta-parameters are there
        self._wait(lambda: not self._schedule.is_missing(batch.numbers))
        return [self._results.pop(number) for number in batch.numbers]

    def compute_any(self, numbers: Collection[int]) -> dict[int, Computed]:
        """Wait for some of the blocks; all that are there then. Raises as `compute` does.

        Args:
            numbers: of blocks whose meta-parameters are there.
        """
        self._wait(lambda: not self._results.keys().isdisjoint(numbers))
        return {n: self._results.pop(n) for n in list(self._results) if n in numbers}

    def _wait(self, is_over: Callable[[], bool]) -> None:
        try:
            while not is_over():
                self._check()
                self._submit()
                self._hear()
                self._watch()
        except RoundFailed as error:
            failed = self._vectors[error.block][0]
            self.forget()
            raise RuntimeError(f"{_name(failed)} cannot be computed: {error}") from None
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """Nothing that was asked for is wanted any more."""
        self._schedule.forget()
        self._vectors.clear()
        self._results.clear()

    def actors(self) -> list[Actor]:
        """Of the workers, to be killed at the end."""
        return self._roster.actors()

    def _submit(self) -> None:
        """Start what the schedule wants to be started."""
        for worker, number in self._schedule.assign():
            block, vector = self._vectors[number]
            actor, gradient = self._roster[worker], ()
            if block.phase == "train":
                returned = actor.gradient.options(num_returns=len(vector) + 1)
                *gradient, report = returned.remote(block, *vector)
            else:
                report = actor.evaluate.remote(block, *vector)
            self._calls[report] = _Call(worker, number, block, tuple(gradient))
            kind = "gradient" if block.phase == "train" else "evaluation"
            self._patience.sent(worker, number, kind)

    def _hear(self) -> None:
        """Wait for the next answer, but not for longer than a worker may take for one."""
        patience = min(max(self._patience.left_s, _LEAST_WAIT_S), _MOST_WAIT_S)
        patience = min(patience, self._missing.warn_if_long(self._schedule.num_up, self._least))
        refs = [*self._roster.building, *self._calls]
        # A worker that has answered is not late, however long its answer was not read.
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not ready:
            ready, _ = ray.wait(refs, num_returns=1, timeout=patience)
        for ref in ready:
            if ref in self._calls:
                self._end_call(ref)
            else:
                others_do = self._schedule.num_up >= self._least
                self._follow(self._roster.hear(ref, others_do=others_do))

    def _end_call(self, ref: Ref) -> None:
        call = self._calls.pop(ref)
        try:
            self._take(call, ref)
        finally:
            if self._schedule.is_lost(call.worker):  # and all of its answers have come
                self._roster.build(call.worker)

    def _take(self, call: _Call, ref: Ref) -> None:
        try:
            report: Any = ray.get(ref)
        except RayError as error:
            self._lose(call, error)
            return
        self._patience.answered(call.worker, call.number)
        if self._schedule.done(call.worker, call.number):
            self.warnings.note(report.warnings)
            node = self._roster.node(call.worker)
            self._results[call.number] = Computed(report, call.gradient, node)
            del self._vectors[call.number]

    def _lose(self, call: _Call, error: RayError) -> None:
        """Hand a lost block back; the work's own exceptions are raised instead."""
        if is_from_the_work(error):
            self._patience.answered(call.worker, call.number)
            if self._schedule.done(call.worker, call.number):
                raise_cause(error)
            return
        cause = str(error).strip().splitlines()[0]
        if call.number in self._vectors:
            _LOG.warning(
                "worker %d lost %s (%s: %s); it is computed again",
                call.worker,
                _name(call.block),
                type(error).__name__,
                cause,
                extra=_where(call.worker, call.block),
            )
        self._patience.lost(call.worker, call.number)
        self._schedule.lost(call.worker, call.number, f"{type(error).__name__}: {cause}")

    def _follow(self, news: News) -> None:
        """A worker that is built is given blocks from now on, its node's neighbouring ones."""
        if news.what == "given up":
            self._schedule.gone(news.worker)
        elif news.what != "replaced":
            self._schedule.back(news.worker)
            if news.what == "moved":
                self._schedule.arrange(self._roster.node)

    def _watch(self) -> None:
        """Pass over the workers that take too long, and restart those that never answer."""
        for worker, silent_s, is_hung in self._patience.overdue():
            self._schedule.late(worker)
            if is_hung:
                _LOG.warning(
                    "worker %d has not answered for %.0f s; it is restarted",
                    worker,
                    silent_s,
                    extra=_where(worker),
                )
                ray.kill(self._roster[worker], no_restart=False)
                self._patience.killed(worker)


def _where(worker: int, block: Block | None = None) -> dict[str, int | str]:
    """What a warning is about, for those who read it by its fields."""
    if block is None:
        return {"worker": worker}
    return {"worker": worker, "phase": block.phase, "step": block.step, "block": block.index}


def _name(block: Block) -> str:
    return f"{block.phase} step {block.step} block {block.index}"
