"""`dmeta.load`: the learner that a run trained; and which of the run's checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from torch import nn

from dmeta.bilevel.types import Loss, Params
from dmeta.cli.saved_run import read_saved
from dmeta.cli.settings.trust import check_saved
from dmeta.inference import Learner
from dmeta.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    open_checkpoints,
    read_checkpoint,
    steps_in,
)
from dmeta.runs.folder import run_place
from dmeta.runs.progress import progress_of
from dmeta.tasks.source import TaskSource
from dmeta.training.build import algorithm_from_config, make_network
from dmeta.training.config import RunConfig
from dmeta.training.frozen_weights import check_same
from dmeta.training.work.losses import loss_of
from dmeta.training.work.task_checks import made_up_inputs


def load(
    run_dir: str | Path,
    checkpoint: int | Literal["last", "best"] = "last",
    *,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    algorithm: Any = None,
    loss: Loss | None = None,
    trust: bool = False,
) -> Learner:
    """The learner that a run trained; needs neither Ray nor the run's data.

    Args:
        run_dir: what `dmeta.train` wrote.
        checkpoint: ``last``, ``best`` on validation tasks, or the step of a kept checkpoint.
        model: your own module that the run was trained with, if it was.
        source: your own task source that the run was trained with: the learner then takes examples
            as that source stores them, and applies its ``preprocess``. Without it, examples are
            given as the network sees them.
        algorithm: your own algorithm (a class) that the run was trained with, if it was.
        loss: your own loss that the run was trained with, if it was.
        trust: contact the address in its ``checkpoint.location`` even if someone else wrote it.

    Raises:
        ValueError: there is no such run or checkpoint, or it is damaged.
    """
    with run_place(run_dir) as place:
        saved = read_saved(place)
        own = {"model": model, "algorithm": algorithm, "loss": loss}
        saved.check_own(own, place.name, f"dmeta.load({place.name!r}")
        config, shapes = saved.config, saved.shapes
        if not trust:
            check_saved(config.as_mapping(), place.name, only=("checkpoint.location",))
        found = find_checkpoint(place.folder, config, checkpoint)
    example = made_up_inputs(shapes.input_shape, shapes.input_dtype)
    network = make_network(config, shapes.input_shape, shapes.num_outputs, model, example)
    network = network.to("cpu", training=False)
    loss = loss_of(config.loss, shapes.kind) if loss is None else loss
    if not hasattr(algorithm, "network"):
        algorithm = algorithm_from_config(config, network, loss, shapes.input_shape, algorithm)
    check_same(config, algorithm.network, str(run_dir))
    params = found.meta_params()
    check_model(algorithm.init_meta_params(), params, run_dir)
    inputs = shapes.inputs
    if source is not None and inputs.form is None:
        inputs = dataclasses.replace(inputs, preprocess=source.preprocess)
    return Learner(algorithm, params, shapes.kind, inputs, found.step, shapes.ways)


def find_checkpoint(run_dir: Path, config: RunConfig, which: int | str) -> Checkpoint:
    """The ``last`` or ``best`` checkpoint of a run, or that of a step.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    storage = open_checkpoints(run_dir, config.checkpoint.location)
    found = steps_in(storage)
    if not found:
        where = config.checkpoint.location or run_dir
        raise CheckpointError(f"run_dir must hold a checkpoint, got none in {where}; train first")
    if isinstance(which, int) and which in found:
        return read_checkpoint(storage, which)
    last = read_checkpoint(storage, found[-1])
    step = progress_of(last).best_step if which == "best" else which
    if step in ("last", None):
        return last
    if step not in found:
        steps = ", ".join(map(str, found))
        raise CheckpointError(f"checkpoint must be last, best or one of {steps}, got {which}")
    assert isinstance(step, int)
    return read_checkpoint(storage, step)


def check_model(init: Params, meta_params: Params, run_dir: str | Path) -> None:
    """Raises CheckpointError if `meta_params` are not of the model that has `init`."""
    for name in dict.fromkeys((*init, *meta_params)):
        wanted, got = (list(p[name].shape) if name in p else "none" for p in (init, meta_params))
        if wanted != got:
            raise CheckpointError(
                f"checkpoint must be of the model in config.json: {name} {wanted}, got {got} in "
                f"{run_dir}; restore config.json, or choose another checkpoint or run_dir"
            )
