"""Collects what torch warns of on a GPU while a block is computed.

Operations that have no deterministic kernel, of which torch warns; memory that was too short for
cuDNN's usual kernel, for which it silently takes another one; and memory that was too short.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO, TypeVar, cast

import torch

from dmeta.runtime.messages import (
    Block,
    BlockReport,
    GradientResult,
    Vector,
)
from dmeta.training.devices.gpu_memory import out_of_memory

_NOT_DETERMINISTIC = "does not have a deterministic implementation"

MEMORY_WAS_SHORT = (
    "a GPU's memory was full while a block was computed: cuDNN takes another kernel then, and the "
    "block may have other bits than elsewhere; raise runtime.gpus_per_worker if it is below 1, or "
    "begin a run with a lower compute.chunk_size"
)


class GpuWatch:
    """Watches a worker's GPU.

    Attributes:
        warnings: what it has seen so far, each once.
    """

    def __init__(self, on_gpu: bool) -> None:
        """Begin.

        Args:
            on_gpu: whether there is something to watch.
        """
        self._on_gpu = on_gpu
        self._seen: dict[str, None] = {}
        self._num_failures = _num_failures() if on_gpu else 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What it has seen so far, each once."""
        return tuple(self._seen)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look at what is done within the context."""
        if not self._on_gpu:
            yield
            return
        with _heard(self._hear):
            yield
        if (num := _num_failures()) > self._num_failures:
            self._num_failures, self._seen[MEMORY_WAS_SHORT] = num, None

    def _hear(self, warning: str) -> None:
        if _NOT_DETERMINISTIC in warning:
            self._seen[warning.partition(", but you set")[0]] = None


class _Work(Protocol):
    watch: GpuWatch

    def tasks_at_once(self, block: Block) -> int: ...


W = TypeVar("W", bound=_Work)
R = TypeVar("R", bound=BlockReport | GradientResult)


def watched(compute: Callable[[W, Vector, Block], R]) -> Callable[[W, Vector, Block], R]:
    """A method that computes a block, with the warnings of its GPU in the report.

    It raises `GpuMemoryError` rather than torch's own error.
    """

    @functools.wraps(compute)
    def watching(work: W, vector: Vector, block: Block) -> R:
        try:
            with work.watch.watching():
                result = compute(work, vector, block)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(work.tasks_at_once(block)) from error
        return cast(R, _with_warnings(result, work.watch.warnings))

    return watching


def _with_warnings(
    result: BlockReport | GradientResult, texts: tuple[str, ...]
) -> BlockReport | GradientResult:
    if isinstance(result, BlockReport):
        return dataclasses.replace(result, warnings=texts)
    return result._replace(report=dataclasses.replace(result.report, warnings=texts))


def _num_failures() -> int:
    """How often torch could not allocate GPU memory, also if the error was caught."""
    return int(torch.cuda.memory_stats().get("num_ooms", 0))


@contextlib.contextmanager
def _heard(hear: Callable[[str], None]) -> Iterator[None]:
    """Let `hear` hear every warning that is shown within the context, which is shown as ever."""
    show = warnings.showwarning

    def heard(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        hear(str(message))
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = heard
    try:
        yield
    finally:
        warnings.showwarning = show
