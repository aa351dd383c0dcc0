"""Observers must not end a run: their failures become warnings.

Observers, trackers, figures and pages; never what the result depends on.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")


def guarded(watchers: Sequence[_T]) -> list[_T]:
    """The same, each without its exceptions: the first one of each is logged with its traceback.

    One that has failed is called again the next time. What is no `Exception` (Ctrl-C) passes.
    """
    return [each if isinstance(each, _Guarded) else cast(_T, _Guarded(each)) for each in watchers]


@contextlib.contextmanager
def warned_of(what: str) -> Iterator[None]:
    """Log a failure inside as a warning, as ``figures/x.png could not be made``."""
    try:
        yield
    except Exception as error:
        _LOG.warning("%s could not be made: %s: %s", what, type(error).__name__, error)
        _LOG.debug("its traceback", exc_info=True)


class _Guarded:
    def __init__(self, watcher: object) -> None:
        self._watcher = watcher
        self._has_failed = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._watcher, name)

        def call(*args: Any, **keywords: Any) -> None:
            try:
                method(*args, **keywords)
            except Exception as error:
                if self._has_failed:
                    return
                self._has_failed = True
                _LOG.warning(
                    "%s.%s failed; the run continues (%s: %s); later failures of it are not shown",
                    type(self._watcher).__name__,
                    name,
                    type(error).__name__,
                    error,
                    exc_info=True,
                )

        return call
