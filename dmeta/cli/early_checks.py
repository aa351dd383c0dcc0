"""What can be said against settings before torch and Ray are imported, which takes seconds.

The verbs check the same again, and more: these checks only make the answer quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmeta.algorithms import ALGORITHMS
from dmeta.models import MODELS
from dmeta.tasks import TASKS
from dmeta.training.config import RunConfig, run_config
from dmeta.training.options import checked_options


def check_early(verb: str, settings: Mapping[str, Any]) -> None:
    """Check names, types and ranges of the settings of `dmeta train`.

    Not those of a run that is resumed, which are in its folder; other verbs are not checked.

    Raises:
        ValueError: whatever is wrong, with the key to change.
    """
    if verb == "train" and not settings.get("resume"):
        _check_options(run_config(settings))


def _check_options(config: RunConfig) -> None:
    """Check the options of the chosen parts; imports torch and the chosen ones, no others."""
    checked_options(ALGORITHMS[config.algorithm.name].make, config.algorithm, "algorithm")
    checked_options(MODELS[config.model.name].make, config.model, "model")
    checked_options(TASKS[config.task.source.name].make, config.task.source, "task")
