"""Reads the settings of an existing run from its folder and checks them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dmeta.algorithms import ALGORITHMS
from dmeta.bilevel.types import Kind
from dmeta.models import MODELS
from dmeta.options import NamedOptions, checked
from dmeta.runs.checkpoint import CheckpointError
from dmeta.runs.folder import RunPlace
from dmeta.runs.layout import CONFIG
from dmeta.tasks import TASKS
from dmeta.tasks.inputs import InputForm
from dmeta.training.config import RunConfig, run_config
from dmeta.training.moved_keys import with_moved_keys
from dmeta.training.other_tasks import Taken
from dmeta.training.resume import OWN, placed_at, read_settings
from dmeta.training.work.input_format import InputFormat
from dmeta.training.work.losses import LOSS_AUTO, LOSSES

_MAX_INPUT = 2**28  # a gigabyte in float32
_PARTS = ("model", "source", "algorithm", "loss", "metrics", "augment")

NONE: Mapping[str, Any] = dict.fromkeys(_PARTS)
"""No custom objects: what a command line can give."""


@dataclass(frozen=True)
class Shapes:
    """What a run's network was made for: enough to make it again without the data.

    Attributes:
        kind: of the tasks.
        input_shape: of one example.
        num_outputs: width of the output; None: the method embeds.
        input_form: see `dmeta.training.work.input_format.InputFormat`; likewise the next two.
        input_dtype: see `input_form`.
        target_shape: see `input_form`.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    num_outputs: int | None
    input_form: InputForm | None = None  # runs of earlier versions have none of these
    input_dtype: Literal["float32", "int64"] = "float32"
    target_shape: tuple[int, ...] | None = None

    @property
    def inputs(self) -> InputFormat:
        """What the examples of the run's tasks are."""
        return InputFormat(self.input_shape, self.input_form, self.input_dtype, self.target_shape)

    @property
    def taken(self) -> Taken:
        """The tasks that its network takes."""
        outputs = self.num_outputs if self.kind == "regression" else None
        return Taken(self.kind, self.input_shape, outputs)

    @property
    def ways(self) -> int | None:
        """Most classes of a task; None: any number, or a regression."""
        return self.num_outputs if self.kind == "classification" else None


@dataclass(frozen=True)
class SavedRun:
    """What a run's ``config.json`` holds.

    Attributes:
        config: settings.
        shapes: of its network.
        own: which of ``model``, ``source``, ``algorithm``, ``loss``, ``metrics`` and ``augment``
            were the user's own objects.
    """

    config: RunConfig
    shapes: Shapes
    own: tuple[str, ...]

    def check_own(self, given: Mapping[str, Any], name: str, call: str) -> None:
        """Refuse to go on without the custom objects that the run was trained with.

        Args:
            given: ``model``, ``source``... -> the object or None; of those that are needed.
            name: of the run's folder.
            call: what takes them, from Python.

        Raises:
            ValueError: some are lacking; says which, and how to pass them.
        """
        lacking = [part for part in self.own if part in given and given[part] is None]
        if not lacking:
            return
        names = {
            "model": self.config.model.name,
            "source": self.config.task.source.name,
            "algorithm": self.config.algorithm.name,
            "loss": self.config.loss,
            "metrics": ", ".join(self.config.eval.metrics or ()),
            "augment": ", ".join(each.name for each in self.config.task.augment),
        }
        trained_with = " and ".join(
            f"{'' if part == 'metrics' else 'a '}custom {part} ({names[part]})" for part in lacking
        )
        keywords = ", ".join(f"{part}=..." for part in lacking)
        raise ValueError(
            f"the custom objects that a run was trained with must be given, got none: {name} was "
            f"trained with {trained_with}, which no settings can make; from Python, call "
            f"{call}, {keywords})"
        )


def read_saved(place: RunPlace) -> SavedRun:
    """The settings and shapes of the run in a folder.

    Raises:
        CheckpointError: there is none, or its settings are not what they must be; the message
            names the file and the key.
    """
    saved: dict[str, Any] = read_settings(place.folder, place.name)
    try:
        config = run_config(with_moved_keys(saved["settings"]))
        shapes = checked(Shapes, saved["shapes"], "shapes")
        _check_shape(shapes.input_shape)
    except ValueError as error:
        raise CheckpointError(
            f"{place.locate(CONFIG)} must be a run's settings, got one that was altered: {error}; "
            "restore it, or choose another run_dir"
        ) from error
    config = config if place.mirror is None else placed_at(config, place.name)
    return SavedRun(config, shapes, _own_parts(saved, config))


def _check_shape(shape: tuple[int, ...]) -> None:
    """Refuses a shape of no input: the network will be tried on two such."""
    if not (all(size >= 1 for size in shape) and math.prod(shape) <= _MAX_INPUT):
        raise ValueError(
            f"shapes.input_shape must be of 1 to {_MAX_INPUT:,} numbers, got {list(shape)}"
        )


def _own_parts(saved: Mapping[str, Any], config: RunConfig) -> tuple[str, ...]:
    """As it was written or, of earlier versions, those whose names are not registered."""
    if isinstance(written := saved.get(OWN), list):
        return tuple(part for part in _PARTS if part in written)
    known: dict[str, Collection[str]] = {
        "model": list(MODELS), "source": list(TASKS), "algorithm": list(ALGORITHMS),
        "loss": [LOSS_AUTO, *LOSSES],
    }  # fmt: skip
    names = (config.model.name, config.task.source.name, config.algorithm.name, config.loss)
    return tuple(part for part, name in zip(known, names, strict=True) if name not in known[part])


def typed_root(root: str | None) -> tuple[str, ...]:
    """The key of a run's settings that ``root=`` was given for."""
    return () if root is None else ("task.root",)


def with_root(config: RunConfig, root: str | None) -> RunConfig:
    """The settings with the data at `root`; as they are if it is None or no data is needed."""
    source = config.task.source
    if root is None or "root" not in source.options:
        return config
    source = NamedOptions(source.name, {**source.options, "root": root})
    return dataclasses.replace(config, task=dataclasses.replace(config.task, source=source))
