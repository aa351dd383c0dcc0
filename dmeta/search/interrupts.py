"""Requests to stop a search: the first signal lets Tune save, the second ends all at once."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NOTICE = b"\nstopping; the work of the trials is kept; press again to stop at once\n"


class SearchStopped(KeyboardInterrupt):
    """A search that was asked to stop; its trials' checkpoints are kept.

    Attributes:
        signal_number: of the signal that asked for it.
    """

    def __init__(self, signal_number: int) -> None:
        """By a signal."""
        super().__init__("stopped the search; the work of its trials is kept")
        self.signal_number = signal_number


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Tune does not tell of old checkpoints that it cannot delete because they are gone.

    The state that a killed search is continued from may name some that were deleted after it.
    """

    def matters(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        is_gone = isinstance(error, FileNotFoundError)
        return not (is_gone and "Error handling checkpoint" in record.getMessage())

    logger = logging.getLogger("ray.tune.execution.tune_controller")
    logger.addFilter(matters)
    try:
        yield
    finally:
        logger.removeFilter(matters)


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables, for as long: Tune's switches that it has no arguments for."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def stopping() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM lets Tune end its trials and save, the second ends all at once.

    Yields where they are noted. Tune's own signal for this is SIGUSR1.
    """
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        heard.append(number)
        if len(heard) > 1:
            raise KeyboardInterrupt
        os.write(2, _NOTICE)
        signal.raise_signal(signal.SIGUSR1)

    def too_early(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SearchStopped(heard[0] if heard else number)  # Tune does not listen yet, or any more

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in zip(numbers, (hear, hear, too_early), strict=True):
        signal.signal(number, handler)
    try:
        yield heard
    finally:
        for number, former in before.items():
            signal.signal(number, signal.SIG_DFL if former is None else former)
