"""How far a meta-gradient is from the exact one, in float64."""

from __future__ import annotations

from dataclasses import dataclass

from dmeta.bilevel.types import Params
from dmeta.training.autotune.gradient_error import flat, relative_difference

BAR = 1e-10
"""Relative difference up to which two float64 meta-gradients are the same but for rounding."""


@dataclass(frozen=True)
class Agreement:
    """Of a meta-gradient with the exact one, over all meta-parameters together.

    Attributes:
        cosine: of the angle between them, both in float64.
        norm_ratio: its 2-norm over that of the exact one, both in float64.
        relative_error: 2-norm of the difference over that of the exact one, both in float64.
        relative_error_float32: the same of the float32 meta-gradient, as a run computes it.
    """

    cosine: float
    norm_ratio: float
    relative_error: float
    relative_error_float32: float


def agreement_of(in_float64: Params, in_float32: Params, exact: Params) -> Agreement:
    """A meta-gradient, in float64 and in float32, compared with the exact one in float64."""
    got, reference = flat(in_float64), flat(exact)
    length = reference.norm()
    return Agreement(
        cosine=float(got @ reference / (got.norm() * length)),
        norm_ratio=float(got.norm() / length),
        relative_error=relative_difference(in_float64, exact),
        relative_error_float32=relative_difference(in_float32, exact),
    )
