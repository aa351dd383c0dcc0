"""Settings together with a user's own objects: what a source lacks, what no object reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dmeta.cli.settings.hydra_app import compose
from dmeta.tasks.source import EpisodeSize, TaskSource
from dmeta.training.config import run_config
from dmeta.training.metric_choice import KEY
from dmeta.training.setup import own_names
from dmeta.training.task_options import RUN_KEYS

_LEAST_POOLED = 16  # conv4 halves an image four times

# Groups of settings that bring a model.
_BRING_MODEL = ("model", "task", "experiment")

# A task's sizes are read with a custom source too.
_SIZES = tuple(f"task.{key}" for key in RUN_KEYS)


def defaults_for(source: TaskSource, overrides: Sequence[str], *, has_network: bool) -> list[str]:
    """Overrides to put before the user's: a model for the source's inputs, no joint baseline.

    The defaults are otherwise those of the sinusoid, which a custom source is not.

    Args:
        source: the user's own.
        overrides: the user's.
        has_network: whether the network is the user's own as well.

    Raises:
        ValueError: no model is known for such inputs.
    """
    if set(map(_key_of, overrides)).intersection(_BRING_MODEL):
        return []
    if has_network:
        return ["joint_baseline=false"]
    return [f"model={_model_for(source, overrides)}", "joint_baseline=false"]


def _key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _model_for(source: TaskSource, overrides: Sequence[str]) -> str:
    shape = source.input_shape
    if len(shape) == 3:
        return "conv4" if min(shape[1:]) >= _LEAST_POOLED else "conv4_strided"
    if len(shape) == 1 and _takes_floats(source, overrides):
        return "mlp"
    what, named = f"examples of {len(shape)} dimensions", "{'model': 'mlp'}"
    if len(shape) == 1:
        what = "whole numbers"
        named = "for token ids {'model': 'transformer', 'model.num_tokens': ...}, or 'lstm'"
    raise ValueError(
        f"a model must be given for a source of {what} (input_shape {shape}), got none; pass "
        f"model=, your own nn.Module, or name one in the settings ({named})"
    )


def _takes_floats(source: TaskSource, overrides: Sequence[str]) -> bool:
    task = run_config(compose("train", overrides)).task
    size = task.training if isinstance(task.training, EpisodeSize) else task.evaluation
    source.check("train", size)
    drawn = source.draw("train", size, np.random.default_rng(0))
    return source.preprocess(torch.from_numpy(np.array(drawn.support_x))).is_floating_point()


def refuse_ignored(overrides: Sequence[str], own: Mapping[str, Any]) -> None:
    """Refuse settings of a group that one of the user's own objects stands for.

    Args:
        overrides: the user's.
        own: as `dmeta.training.setup.prepare` takes them; None: there is none.

    Raises:
        ValueError: with the key.
    """
    names = own_names(**own)
    for key in map(_key_of, overrides):
        if key == KEY and own.get("metrics") is not None:
            raise ValueError(f"{KEY} must not be set together with metrics=...; leave one out")
        if key == "task.augment" and own.get("augment") is not None:
            raise ValueError(f"{key} must not be set together with augment=...; leave one out")
        group, dot, _ = key.partition(".")
        if not dot or group not in names or key in _SIZES:
            continue
        argument = "source" if group == "task" else group
        raise ValueError(
            f"{key} must not be set together with {argument}=..., which stands for all of {group} "
            f"and does not read it, got {names[group]}; leave the key out and make the object with "
            "this value (of a class: functools.partial)"
        )
