"""``evaluation.json`` of a run: renamed after its step when the run continues."""

from __future__ import annotations

import json

from dmeta.runs.checkpoint import open_checkpoints, steps_in
from dmeta.runs.folder import RunPlace
from dmeta.runs.layout import EVALUATION
from dmeta.training.config import RunConfig


def set_evaluation_aside(config: RunConfig, place: RunPlace) -> None:
    """Name the evaluation of a run that is about to take more steps by the step that it is of."""
    content = place.read(EVALUATION)
    done = steps_in(open_checkpoints(place.folder, config.checkpoint.location))
    if content is None or not done or done[-1] >= config.steps:
        return
    place.rename(EVALUATION, f"evaluation-step-{_step_of(content, done[-1]):08d}.json")


def _step_of(content: bytes, last: int) -> int:
    try:
        step = json.loads(content)["test"]["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return last
    return step if type(step) is int and 0 <= step <= last else last
