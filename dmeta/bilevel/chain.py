"""The inner update rule as a chain of small transforms, each with its own meta-parameters.

A chain of transforms t_1, ..., t_n turns the inner gradient into an update, one after the other,
and the iterate moves against it (optax's ``chain``, where the update is added):

    u_0 = g,   (u_i, s_i) <- t_i(u_{i-1}, s_i, w, step; phi_i),   w <- w - u_n

phi_i are the meta-parameters of t_i, s_i is its state. Order matters: clipping before or after a
momentum are two rules. Differentiated like the rest of the inner loop, through phi_i too.

A meta-parameter of a transform has a name that begins with ``inner_``, then a word and a slash. One
whose name begins with ``inner_moment`` is carried: it is part of the iterate, where the transform's
state of the same name starts, and it is written back after every step. Only
``gradient=displacement`` moves it; a run with another meta-gradient is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dmeta.bilevel.inner import State
from dmeta.bilevel.types import Params

CARRIED = "inner_moment"
"""Prefix of meta-parameters that are part of the iterate."""

_LEARNED = "inner_"


class Transform(Protocol):
    """One link of a chain. Pure: nothing is changed in place, no random numbers."""

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        """What the transform meta-learns, at its initial values; {} if nothing.

        Args:
            params: what the inner loop moves, by name.
            num_steps: most inner steps of training, for what has a row for each.
        """
        ...

    def init(self, params: Params) -> State:
        """The state before the first step: a pytree of tensors."""
        ...

    def update(
        self, update: Params, state: State, params: Params, step: int, meta: Params
    ) -> tuple[Params, State]:
        """One step.

        Args:
            update: the gradient, or what the transform before has made of it; of the shapes of
                `params`.
            state: as `init` or the step before has left it.
            params: the iterate. It includes what is carried, whose gradient is 0.
            step: from 0.
            meta: meta-parameters, with those of this transform among them.

        Returns: the update that is handed on, and the state, of the structure that it had.
        """
        ...


@dataclass(frozen=True)
class Chain:
    """Transforms one after the other, as a `dmeta.bilevel.inner.InnerOptimizer`.

    Attributes:
        transforms: in the order in which they are applied; none: w <- w - g.
        meta: the meta-parameters of all of them.
    """

    transforms: tuple[Transform, ...]
    meta: Params

    def init(self, params: Params) -> State:
        """The state of each transform."""
        return tuple(each.init(params) for each in self.transforms)

    def update(
        self, params: Params, gradients: Params, state: State, step: int
    ) -> tuple[Params, State]:
        """One step."""
        update, after = gradients, []
        for transform, own in zip(self.transforms, state, strict=True):
            update, own = transform.update(update, own, params, step, self.meta)
            after.append(own)
        carried = {
            n: p for s in after if isinstance(s, dict) for n, p in s.items() if is_carried(n)
        }
        moved = {
            name: carried[name] if is_carried(name) else p - update[name]
            for name, p in params.items()
        }
        return moved, tuple(after)


def is_carried(name: str) -> bool:
    """Whether a name is that of a meta-parameter that is part of the iterate."""
    return name.startswith(CARRIED)


def is_learned(name: str) -> bool:
    """Whether a name is that of a transform's meta-parameter, not of a network's parameter."""
    return (name.startswith(_LEARNED) and "/" in name) or is_carried(name)


def meta_parameters(
    transforms: tuple[Transform, ...], params: Params, num_steps: int
) -> dict[str, Tensor]:
    """What the transforms of a chain meta-learn, in their order.

    Args:
        transforms: of the chain.
        params: what the inner loop moves.
        num_steps: most inner steps of training.

    Raises:
        ValueError: a name is not one of a transform's meta-parameters, or two have the same.
    """
    found: dict[str, Tensor] = {}
    for transform in transforms:
        for name, value in transform.meta_parameters(params, num_steps).items():
            kind = type(transform).__name__
            if not is_learned(name):
                raise ValueError(
                    f"a meta-parameter of {kind} must be called inner_WORD/NAME, got {name!r}; "
                    "rename it"
                )
            if name in found:
                raise ValueError(
                    f"a chain must learn each meta-parameter once, got {name!r} of {kind} again; "
                    f"remove one of the transforms, or what it learns"
                )
            found[name] = value
    return found
