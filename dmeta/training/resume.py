"""Where a run starts: whether there is one to continue, and whether its settings fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dmeta.addresses import is_address, within
from dmeta.metrics.declaration import as_plain
from dmeta.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    last_checkpoint,
    open_checkpoints,
    steps_in,
)
from dmeta.runs.declared_metrics import DECLARED, declared_metrics
from dmeta.runs.layout import CHECKPOINTS, CONFIG
from dmeta.runs.progress import Progress, fresh, progress_of
from dmeta.runs.remote_mirror import Mirror, MirroredStorage
from dmeta.runs.storage import Storage
from dmeta.training.build import num_outputs_of
from dmeta.training.config import RunConfig
from dmeta.training.frozen_weights import FROZEN, other_weights
from dmeta.training.results import write_json
from dmeta.training.setup import Run

OWN = "own"
"""Of config.json: which parts of the run are the user's own objects, which no settings can make."""

_SHAPES = "shapes"


class StartingPoint(NamedTuple):
    """Where a run begins.

    Attributes:
        progress: of the steps that were done.
        storage: where its checkpoints are, and will be.
        checkpoint: what it goes on from; None: from the initial weights.
        damages: what is wrong with the checkpoints after that one.
    """

    progress: Progress
    storage: Storage
    checkpoint: Checkpoint | None = None
    damages: Sequence[str] = ()


def starting_point(
    config: RunConfig,
    run_dir: Path,
    first: Checkpoint | None = None,
    mirror: Mirror | None = None,
) -> StartingPoint:
    """Where the run begins: at step 0, or at its last whole checkpoint if it is to be resumed.

    Args:
        config: settings.
        run_dir: of the run.
        first: begin there rather than at step 0: a checkpoint of a run of other settings.
        mirror: copies `run_dir` elsewhere, before each checkpoint; None: it stays there.

    Raises:
        ValueError: there is a run and ``resume`` is not set, or one of other settings, or all its
            checkpoints are damaged.
    """
    storage = open_checkpoints(run_dir, config.checkpoint.location)
    if mirror is not None:
        storage = MirroredStorage(storage, mirror)
    steps = steps_in(storage)
    begun = _is_begun(config, run_dir, steps)
    if begun and (run_dir / CONFIG).exists():
        _check_settings(config, run_dir)
    if not begun or not steps:
        if first is None:
            return StartingPoint(fresh(config.fingerprint()), storage)
        # Its best steps have their checkpoints elsewhere.
        taken = dataclasses.replace(
            progress_of(first), fingerprint=config.fingerprint(), best=(), rejected_in_a_row=0
        )
        return StartingPoint(taken, storage, first)
    checkpoint, damages = last_checkpoint(storage, steps)
    if checkpoint.progress.get("fingerprint") != config.fingerprint():
        raise ValueError(
            f"checkpoints must belong to this configuration, got {checkpoint.where} of another; "
            "give the same settings (compute.plan, if it was auto, is what was chosen then), or "
            "choose another run_dir or checkpoint.location"
        )
    if checkpoint.step > config.steps:
        raise ValueError(
            f"steps must be >= {checkpoint.step}, the steps that {_named(config, run_dir)} has "
            f"done, got {config.steps}; raise it"
        )
    return StartingPoint(progress_of(checkpoint), storage, checkpoint, damages)


def check_resume(config: RunConfig, run_dir: Path) -> None:
    """Check that there is a run to go on with, or none, as ``resume`` says.

    Needs no more of the settings, so this can be known before anything is computed.

    Raises:
        ValueError: it is not so.
    """
    _is_begun(config, run_dir, steps_in(open_checkpoints(run_dir, config.checkpoint.location)))


def check_primary_metric(run: Run, run_dir: Path) -> None:
    """Check that a run that goes on is validated by the metric by which it was.

    The best steps so far were ranked by that one; the other metrics may change.

    Raises:
        ValueError: it has another primary metric.
    """
    if not (run_dir / CONFIG).exists():
        return
    before = declared_metrics(read_settings(run_dir, _named(run.config, run_dir)))[0]
    now = run.metrics[0].declaration
    if (before.name, before.direction) != (now.name, now.direction):
        raise ValueError(
            f"eval.metrics must begin with {before.name}, by which the best steps of "
            f"{_named(run.config, run_dir)} were chosen so far, got {now.name}; put it first, or "
            "choose another run_dir"
        )


def _is_begun(config: RunConfig, run_dir: Path, steps: Sequence[int]) -> bool:
    """Whether there is a run, in the directory or by its checkpoints alone, to go on with.

    Raises:
        ValueError: that contradicts ``resume``.
    """
    key, where = "run_dir", _named(config, run_dir)
    begun = (run_dir / CONFIG).exists()
    if not begun and config.checkpoint.location is not None:
        key, where = "checkpoint.location", config.checkpoint.location
    if not begun and not (steps and key == "checkpoint.location"):
        if config.resume is True:
            raise ValueError(
                f"resume=true must have a run in run_dir, got none in {_named(config, run_dir)}; "
                "correct run_dir, or choose resume=auto"
            )
        return False
    if not config.resume:
        raise ValueError(
            f"{key} must be new, got {where} with a run in it; add resume=true to continue "
            f"it, or choose another {key}"
        )
    return True


def _check_settings(config: RunConfig, run_dir: Path) -> None:
    """Raises ValueError if the run in the directory is of other settings."""
    saved = read_settings(run_dir, _named(config, run_dir))
    if saved["fingerprint"] != config.fingerprint():
        changed = ", ".join(_differences(saved["settings"], config.as_mapping()))
        changed = changed or "config.json was altered"
        there, here = saved["settings"]["algorithm"]["name"], config.algorithm.name
        if there != here:  # then other keys differ, too
            changed = f"algorithm: {there} there, {here} here"
        if f"model.{FROZEN}" in changed or f"algorithm.{FROZEN}" in changed:
            raise other_weights(_named(config, run_dir))
        raise ValueError(
            f"run_dir must belong to this configuration, got {_named(config, run_dir)} of another "
            f"(different: {changed}); give the same settings, or choose another run_dir"
        )


def _named(config: RunConfig, run_dir: Path) -> str:
    """The run's directory for people: that of a run at an address is a copy of what is there."""
    is_copy = config.run_dir is not None and is_address(config.run_dir)
    return str(config.run_dir if is_copy else run_dir)


def placed_at(config: RunConfig, address: str) -> RunConfig:
    """The settings of a run whose directory is an address: its checkpoints go there directly."""
    location = config.checkpoint.location or within(address, CHECKPOINTS)
    return dataclasses.replace(
        config,
        run_dir=address,
        checkpoint=dataclasses.replace(config.checkpoint, location=location),
    )


def read_settings(run_dir: Path, name: str | None = None) -> dict[str, Any]:
    """The content of a run's config.json.

    Args:
        run_dir: its directory.
        name: of that, for the message; None: its path.

    Raises:
        CheckpointError: it is not there, or not readable.
    """
    name = name or str(run_dir)
    path = run_dir / CONFIG
    try:
        content = json.loads(path.read_text())
        content["settings"], content["fingerprint"], content[_SHAPES]  # all must be there
    except FileNotFoundError:
        raise CheckpointError(
            f"run_dir must hold a run, got {name} without {CONFIG}; correct run_dir"
        ) from None
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{within(name, CONFIG)} must be a run's settings, got {error!r}; it was altered or "
            "truncated: restore it, or choose another run_dir"
        ) from None
    return dict(content)


def write_settings(run: Run, run_dir: Path) -> None:
    """Write a run's config.json."""
    settings, name = run.config.as_mapping(), str(run.config.run_dir)
    inputs = run.inputs
    if settings["checkpoint"]["location"] == within(name, CHECKPOINTS):
        settings["checkpoint"]["location"] = None  # where the directory is, should it be moved
    write_json(
        run_dir / CONFIG,
        {
            "fingerprint": run.config.fingerprint(),
            "settings": settings,
            OWN: list(run.own),
            DECLARED: [as_plain(metric.declaration) for metric in run.metrics],
            _SHAPES: {
                "kind": run.source.kind,
                "input_shape": list(inputs.shape),
                "input_form": inputs.form,
                "input_dtype": inputs.dtype,
                "target_shape": inputs.target_shape,
                "num_outputs": num_outputs_of(run.algorithm, run.source, run.config),
            },
        },
    )


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [
            path
            for key in keys
            if key not in ("run_dir", "resume", "joint_baseline")
            for path in _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        ]
    return [] if old == new else [prefix.rstrip(".")]
