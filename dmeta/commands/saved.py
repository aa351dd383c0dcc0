"""The settings of a run that is there, read back from its folder and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmeta.bilevel.types import Kind
from dmeta.training.checkpoint import CheckpointError
from dmeta.training.config import RunConfig, run_config
from dmeta.training.options import checked
from dmeta.training.places import RunPlace
from dmeta.training.starting import CONFIG, placed_at, read_settings
from dmeta.training.task_checks import InputType


@dataclass(frozen=True)
class Shapes:
    """What a run's network was made for: enough to make it again without the data.

    Attributes:
        kind: of the tasks.
        input_shape: of one example.
        num_outputs: width of the output; None: the method embeds.
        input_type: of its numbers.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    num_outputs: int | None
    input_type: InputType = "float32"


@dataclass(frozen=True)
class SavedRun:
    """What a run's ``config.json`` holds."""

    config: RunConfig
    shapes: Shapes


def read_saved(place: RunPlace) -> SavedRun:
    """The settings and shapes of the run in a folder.

    Raises:
        CheckpointError: there is none, or its settings are not what they must be; the message
            names the file and the key.
    """
    saved: dict[str, Any] = read_settings(place.folder, place.name)
    try:
        config = run_config(saved["settings"])
        shapes = checked(Shapes, saved["shapes"], "shapes")
    except ValueError as error:
        raise CheckpointError(
            f"{place.locate(CONFIG)} must be a run's settings, got one that was altered: {error}; "
            "restore it, or choose another run_dir"
        ) from error
    return SavedRun(config if place.mirror is None else placed_at(config, place.name), shapes)
