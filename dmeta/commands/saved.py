"""The settings of a run that is there, read back from its folder and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmeta.bilevel.types import Kind
from dmeta.training.checkpoint import CheckpointError
from dmeta.training.config import RunConfig, checked, run_config
from dmeta.training.starting import CONFIG, read_settings


@dataclass(frozen=True)
class Shapes:
    """What a run's network was made for: enough to make it again without the data.

    Attributes:
        kind: of the tasks.
        input_shape: of one example.
        num_outputs: width of the output; None: the method embeds.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    num_outputs: int | None


@dataclass(frozen=True)
class SavedRun:
    """What a run's ``config.json`` holds."""

    config: RunConfig
    shapes: Shapes


def read_saved(run_dir: Path) -> SavedRun:
    """The settings and shapes of the run in a folder.

    Raises:
        CheckpointError: there is none, or its settings are not what they must be; the message
            names the file and the key.
    """
    saved: dict[str, Any] = read_settings(run_dir)
    try:
        return SavedRun(run_config(saved["settings"]), checked(Shapes, saved["shapes"], "shapes"))
    except ValueError as error:
        raise CheckpointError(
            f"{run_dir / CONFIG} must be a run's settings, got one that was altered: {error}; "
            "restore it, or choose another run_dir"
        ) from error
