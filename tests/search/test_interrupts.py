"""What Tune says while a search goes on."""

from __future__ import annotations

import logging

import pytest

from dmeta.search.interrupts import quiet


@pytest.mark.parametrize(
    ("message", "error", "is_told"),
    [
        ("Trial x: Error handling checkpoint y", FileNotFoundError("checkpoint_000001"), False),
        ("Trial x: Error handling checkpoint y", PermissionError("checkpoint_000001"), True),
        ("Trial x: something else", FileNotFoundError("checkpoint_000001"), True),
    ],
)
def test_old_checkpoints_that_are_gone_are_not_told_of(
    message: str, error: Exception, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("ray.tune.execution.tune_controller")
    with caplog.at_level(logging.ERROR, logger.name), quiet():
        logger.error(message, exc_info=error)
        logger.error("no exception")
    assert (message in caplog.text) is is_told
    assert "no exception" in caplog.text
    assert logger.filters == []
