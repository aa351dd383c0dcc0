"""Checks settings as far as that is possible without the data."""

from __future__ import annotations

import inspect

from dmeta.algorithms import ALGORITHMS
from dmeta.metrics.choice import check_registered
from dmeta.models import MODELS
from dmeta.options import checked_options
from dmeta.tasks import TASKS
from dmeta.training.build import make_estimator
from dmeta.training.config import RunConfig
from dmeta.training.init_options import init_options, without_init
from dmeta.training.metric_choice import KEY
from dmeta.training.outer.optimizers import check_optimizer
from dmeta.training.setup import prepare

_DATA = "root"
"""Keyword of the task sources that read data."""


def check_without_data(config: RunConfig) -> None:
    """Check what `prepare` would, all of it for tasks that need no data; starts, writes nothing.

    Raises:
        ValueError: whatever is wrong, with the key to change.
    """
    choice = config.task.source
    make = TASKS[choice.name].make
    if _DATA not in inspect.signature(make).parameters:
        prepare(config)
        return
    check_optimizer(config.outer)
    check_registered(config.eval.metrics or (), KEY)
    make_estimator(config)
    checked_options(make, choice, "task")
    checked_options(ALGORITHMS[config.algorithm.name].make, config.algorithm, "algorithm")
    init_options(config.model)
    checked_options(MODELS[config.model.name].make, without_init(config.model), "model")
