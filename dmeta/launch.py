"""Opens the runtime that a run's settings name: joins the training with who computes it."""

from __future__ import annotations

import contextlib

from dmeta.runtime import make_runtime, open_workplace
from dmeta.runtime.protocol import Runtime, Workplace
from dmeta.training.config import RunConfig
from dmeta.training.setup import Run


def workplace_of(config: RunConfig) -> contextlib.AbstractContextManager[Workplace]:
    """Where a run of these settings computes; for `open_runtime`, and to choose its plan there."""
    return open_workplace(
        config.runtime, config.device, config.num_blocks, config.run_id, config.compute
    )


def open_runtime(run: Run, workplace: Workplace | None = None) -> Runtime:
    """The runtime that the run's settings name, in its workplace or one of its own."""
    config = run.config
    return make_runtime(
        config.runtime,
        run.work,
        run.outer,
        config.device,
        config.num_blocks,
        config.run_id,
        workplace,
        config.compute,
    )
