"""The chain of transforms that the settings of an inner loop stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dmeta.bilevel.chain import CARRIED, Transform
from dmeta.bilevel.transforms import TRANSFORMS
from dmeta.bilevel.transforms.adam import Adam
from dmeta.bilevel.transforms.carried_adam import CarriedAdam
from dmeta.bilevel.transforms.clip import Clip
from dmeta.bilevel.transforms.curvature import CURVATURE, Curvature
from dmeta.bilevel.transforms.lstm import LSTM, InnerLSTM
from dmeta.bilevel.transforms.momentum import Momentum
from dmeta.bilevel.transforms.rate import RATE, Rate
from dmeta.bilevel.transforms.ratio import Rated
from dmeta.options import NamedOptions, checked_options, default_options
from dmeta.registry import UnknownNameError

if TYPE_CHECKING:
    from dmeta.algorithms.inner_loop import InnerLoop

_REPLACED: Mapping[str, Any] = {
    "inner_optimizer": "sgd",
    "inner_momentum": 0,
    "inner_clip_norm": None,
    "precondition": None,
    "carry_moments": False,
    "proximal_at": "every_step",
}
"""Settings that a chain stands in the place of, as they must be with one."""

_SHARED = ("inner_lr", "learn_inner_lr")
"""Settings of the inner loop that a transform with an option of the name takes."""

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


def check_chain(inner: InnerLoop) -> None:
    """Check a chain that is named, and that no other setting changes the rule.

    Raises:
        ValueError: a transform is not known, an option is wrong, or another setting says what the
            chain says.
    """
    for key, wanted in _REPLACED.items():
        if (value := getattr(inner, key)) != wanted:
            shown = "null" if wanted is None else str(wanted).lower()
            raise ValueError(
                f"algorithm.{key} must be {shown} with algorithm.inner_chain, which says the whole "
                f"update rule, got {value}; name the transform in the chain and set it so, or "
                "choose algorithm=maml, which has it so"
            )
    named_chain(inner)


def named_chain(inner: InnerLoop) -> tuple[Transform, ...]:
    """The transforms that ``inner_chain`` names."""
    links = inner.inner_chain or ()
    return tuple(_link(each, f"algorithm.inner_chain[{i}]", inner) for i, each in enumerate(links))


def _link(link: Any, key: str, inner: InnerLoop) -> Transform:
    """One transform: that of a name, that of a name with options, or one that is ready."""
    if hasattr(link, "meta_parameters") and hasattr(link, "update"):
        ready: Transform = link
        return ready
    own = {"name": link} if isinstance(link, str) else link
    if not isinstance(own, Mapping) or not isinstance(own.get("name"), str):
        raise ValueError(
            f"{key} must be the name of a transform, or its name and options such as "
            f"{{name: momentum, decay: 0.5}}, got {link!r}; change it"
        )
    try:
        entry = TRANSFORMS[own["name"]]
    except UnknownNameError as error:
        raise ValueError(f"{key}: {error}") from None
    choice = NamedOptions(own["name"], {k: v for k, v in own.items() if k != "name"})
    options = checked_options(entry.make, choice, key)
    # What the transform shares with the inner loop is said there, unless the chain says it.
    shared = {name: getattr(inner, name) for name in _SHARED if name in default_options(entry.make)}
    return entry.make(**(shared | options))


def place_of(name: str) -> int:
    """Where a meta-parameter stands in their order, which is part of a run's hash.

    Rates first, then matrices, the LSTM, carried moments, and those of other transforms.
    """
    return next((i for i, prefix in enumerate(_PLACES) if name.startswith(prefix)), len(_PLACES))
