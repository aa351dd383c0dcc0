"""Requests to stop: the step in progress is finished and saved; a second one ends all at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import TypeAlias

Asked: TypeAlias = Callable[[], int | None]
"""The number of the signal that asked for a stop; None as long as nobody did."""

Listening: TypeAlias = Callable[[], AbstractContextManager[Asked]]
"""Within it, requests to stop the training are noted."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\nfinishing the step, then stopping; press again to stop at once\n"


class Stopped(KeyboardInterrupt):
    """A training that was asked to stop, and did so after a step, which is kept.

    Attributes:
        step: outer steps done.
        signal_number: of the signal that asked for it.
    """

    def __init__(self, step: int, signal_number: int) -> None:
        """After `step` steps."""
        super().__init__(f"stopped after step {step}, which is kept")
        self.step = step
        self.signal_number = signal_number


@contextlib.contextmanager
def no_interrupts() -> Iterator[Asked]:
    """Nobody can ask: signals do what they do elsewhere."""
    yield lambda: None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Asked]:
    """The first SIGINT (Ctrl-C) or SIGTERM asks for a stop, the second is a KeyboardInterrupt.

    Elsewhere than in the main thread, which alone gets signals, nobody can ask.
    """
    if threading.current_thread() is not threading.main_thread():
        with no_interrupts() as asked:
            yield asked
        return
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        heard.append(number)
        if len(heard) > 1:
            raise KeyboardInterrupt
        os.write(2, _NOTICE)  # print might be what was interrupted

    before = {number: signal.signal(number, hear) for number in _SIGNALS}
    try:
        yield lambda: heard[0] if heard else None
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
