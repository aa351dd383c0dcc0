"""What is chosen for a user's own task source where the settings leave it open."""

from __future__ import annotations

from collections.abc import Sequence

from dmeta.cli.hydra_app import compose
from dmeta.tasks.source import TaskSource
from dmeta.training.config import run_config
from dmeta.training.input_format import input_format

_LEAST_POOLED = 16  # conv4 halves an image four times

# Groups of settings that bring a model.
_BRING_MODEL = ("model", "task", "experiment")


def defaults_for(source: TaskSource, overrides: Sequence[str], *, has_network: bool) -> list[str]:
    """Overrides to put before the user's: a model for the source's inputs, no joint baseline.

    The defaults are otherwise those of the sinusoid, which an own source is not.

    Args:
        source: the user's own.
        overrides: the user's.
        has_network: whether the network is the user's own as well.

    Raises:
        ValueError: no model is known for such inputs.
    """
    keys = {override.lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides}
    if keys.intersection(_BRING_MODEL):
        return []
    if has_network:
        return ["joint_baseline=false"]
    return [f"model={_model_for(source, overrides)}", "joint_baseline=false"]


def _model_for(source: TaskSource, overrides: Sequence[str]) -> str:
    shape = source.input_shape
    if len(shape) == 3:
        return "conv4" if min(shape[1:]) >= _LEAST_POOLED else "conv4_strided"
    if len(shape) == 1 and _takes_floats(source, overrides):
        return "mlp"
    what = "whole numbers" if len(shape) == 1 else f"examples of {len(shape)} dimensions"
    raise ValueError(
        f"a model must be given for a source of {what} (input_shape {shape}), got none; pass "
        "model=, an own nn.Module, or name one in the settings ({'model': 'mlp'})"
    )


def _takes_floats(source: TaskSource, overrides: Sequence[str]) -> bool:
    size = run_config(compose("train", overrides)).task.training
    source.check("train", size)
    return input_format(source, size).dtype == "float32"
