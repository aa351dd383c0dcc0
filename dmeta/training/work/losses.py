"""Losses by name. Your own loss is passed to `dmeta.train` as an object.

Letters: N examples, W ways, D values.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from dmeta.bilevel.types import Kind, Loss
from dmeta.registry import nearest

LOSS_AUTO = "auto"


class _Named(NamedTuple):
    kind: Kind
    loss: Loss


LOSSES: dict[str, _Named] = {
    "cross_entropy": _Named("classification", F.cross_entropy),
    "smoothed_cross_entropy": _Named(
        "classification", functools.partial(F.cross_entropy, label_smoothing=0.1)
    ),
    "mse": _Named("regression", F.mse_loss),
    "l1": _Named("regression", F.l1_loss),
    "huber": _Named("regression", F.huber_loss),
}
"""Classification: logits [N, W] and labels [N] to nats; regression: values [N, D] twice. Means."""


def loss_of(name: str, kind: Kind) -> Loss:
    """The loss that a config names; ``auto``: cross-entropy, or the mean squared error.

    Raises:
        ValueError: there is no such loss, or it is not one for this kind of task.
    """
    if name == LOSS_AUTO:
        name = "cross_entropy" if kind == "classification" else "mse"
    known = [other for other, entry in LOSSES.items() if entry.kind == kind]
    if name not in known:
        raise ValueError(
            f"loss must be {LOSS_AUTO} or one of {', '.join(known)} for {kind} tasks, got {name!r}"
            f"{nearest(name, known)}; change it"
        )
    return LOSSES[name].loss


def loss_by_target(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy for labels [N] of a whole type, the mean squared error for values [N, ...].

    Raises:
        ValueError: predicted values are not of the targets' shape (torch would broadcast them).
    """
    if not target.is_floating_point():
        return F.cross_entropy(prediction, target)
    if prediction.shape != target.shape:
        raise ValueError(
            f"targets must have the shape of the predictions, {list(prediction.shape)}, got "
            f"{list(target.shape)}; reshape them"
        )
    return F.mse_loss(prediction, target)
