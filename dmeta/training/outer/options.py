"""Settings of the outer optimiser. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from dmeta.options import check_fields
from dmeta.training.outer.torch_optimizers import OptimizerName

MAX_LR = 1e10  # beyond it, Adam's steps overflow float32


@dataclass(frozen=True)
class OuterOptions:
    """The outer optimiser, which acts on the mean meta-gradient of a step.

    Attributes:
        name: an optimiser of `torch.optim` in lower case: ``adam``, ``adamw``, ``sgd``,
            ``rmsprop``...
        lr: outer learning rate at step 0 (after the warm-up).
        final_lr: outer learning rate at the last step; unused if the schedule is constant.
        schedule: how the rate goes from lr to final_lr: ``constant``, ``linear`` or ``cosine``.
        schedule_every: outer steps between changes of the rate: an epoch, where published code
            anneals by epochs.
        warmup_steps: outer steps over which the rate first rises linearly to lr; the schedule
            covers the steps after them.
        clip_value: bound on each element of the mean meta-gradient; None: no bound.
        clip_norm: bound on its 2-norm, applied after clip_value; None: no bound.
        clip_norm_over: which 2-norm clip_norm bounds: that of ``all`` of the mean meta-gradient,
            or that of each ``tensor`` (as in LEO's code).
        reject_norm: a mean meta-gradient with a larger 2-norm, before clipping, is not applied,
            like one that is not finite; None: no bound.
        options: the optimiser's own arguments (``betas``, ``weight_decay``, ...), with torch's
            names and defaults; in a configuration they are keys of ``outer``.
    """

    name: OptimizerName = "adam"
    lr: Annotated[float, Field(gt=0, le=MAX_LR)] = 1e-3
    final_lr: Annotated[float, Field(ge=0, le=MAX_LR)] = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    schedule_every: PositiveInt = 1
    warmup_steps: NonNegativeInt = 0
    clip_value: PositiveFloat | None = None
    clip_norm: PositiveFloat | None = None
    clip_norm_over: Literal["all", "tensor"] = "all"
    reject_norm: PositiveFloat | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "outer")
