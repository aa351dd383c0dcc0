"""Which predictions mean anything. Letters: Q query examples, D outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from dmeta.bilevel.types import Kind


def finite_rows(kind: Kind, prediction: Tensor) -> Tensor:
    """Which predictions [..., Q, D] mean anything: bool [..., Q].

    A classification does if its largest logit is finite: one that is NaN makes ``argmax`` answer
    with its place, while -inf is a class that is ruled out. Values do if all are finite.
    """
    if kind == "classification":
        return prediction.amax(-1).isfinite()
    return prediction.isfinite().all(-1)
