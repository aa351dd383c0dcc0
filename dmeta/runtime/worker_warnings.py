"""Warnings that workers put into their reports, each logged once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

_LOG = logging.getLogger(__name__)


class Warnings:
    """Those of a run so far, in the order of their first mention."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def note(self, texts: Iterable[str]) -> None:
        """Log those that are new."""
        for text in texts:
            if text not in self._texts:
                self._texts[text] = None
                _LOG.warning("%s", text)

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._texts)
