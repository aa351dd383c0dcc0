"""The chain of transforms that the settings of an inner loop stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmeta.bilevel.chain import CARRIED, Transform
from dmeta.bilevel.transforms.adam import Adam
from dmeta.bilevel.transforms.carried_adam import CarriedAdam
from dmeta.bilevel.transforms.clip import Clip
from dmeta.bilevel.transforms.curvature import CURVATURE, Curvature
from dmeta.bilevel.transforms.lstm import LSTM, InnerLSTM
from dmeta.bilevel.transforms.momentum import Momentum
from dmeta.bilevel.transforms.rate import RATE, Rate
from dmeta.bilevel.transforms.ratio import Rated

if TYPE_CHECKING:
    from dmeta.algorithms.inner_loop import InnerLoop

_PLACES = (RATE, CURVATURE, LSTM, CARRIED)


def default_chain(inner: InnerLoop) -> tuple[Transform, ...]:
    """Clipping, preconditioning, then the rule with its rate; what is not set is left out."""
    rate = Rate(inner.inner_lr, inner.learn_inner_lr)
    links: list[Transform] = []
    if inner.inner_clip_norm is not None:
        links.append(Clip(inner.inner_clip_norm))
    if inner.precondition == "curvature":
        links.append(Curvature())
    if inner.inner_optimizer == "adam":
        rule = CarriedAdam() if inner.carry_moments else Adam(beta1=0.0)
        return (*links, Rated(rule, rate))
    if inner.inner_optimizer == "lstm":
        links.append(InnerLSTM())
    elif inner.inner_momentum:
        links.append(Momentum(inner.inner_momentum))
    return (*links, rate)


def place_of(name: str) -> int:
    """Where a meta-parameter stands in their order, which is part of a run's hash.

    Rates first, then matrices, the LSTM, carried moments, and those of other transforms.
    """
    return next((i for i, prefix in enumerate(_PLACES) if name.startswith(prefix)), len(_PLACES))
