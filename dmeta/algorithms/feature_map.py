"""A linear map of a task's features, learned by the cosines with its class means.

Li, Liu & Bilen 2021, "Universal Representation Learning from Multiple Domains for Few-shot
Classification" (arXiv:2103.13841), section 3.3: with features f(x) of a frozen network and a map M,
the identity at first,

    logits_w(x) = scale cos(M f(x), c_w),   c_w = mean of M f(x_i) over class w
    M = Adadelta steps on the loss of the support set

What else the features depend on may be learned with the map, as adapters (`dmeta.algorithms.tsa`).

Letters: S support examples, N examples to predict, W ways, D dimensions of the features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from dmeta.algorithms.embeddings import class_means, cosines
from dmeta.bilevel.chain import Chain
from dmeta.bilevel.inner import InnerProblem, State
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.transforms.adadelta import Adadelta
from dmeta.bilevel.types import Loss, Params, Stage
from dmeta.options import check_fields

MAP = "tsa/map"
"""M among what a task learns."""


@dataclass(frozen=True)
class Rates:
    """Multiplies an update by one rate for the map and another one for the rest (a `Transform`).

    Attributes:
        map_lr: of the map.
        other_lr: of the rest.
    """

    map_lr: float
    other_lr: float

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Nothing."""
        return {}

    def init(self, params: Params) -> State:  # noqa: ARG002
        """None."""
        return ()

    def update(
        self,
        update: Params,
        state: State,
        params: Params,  # noqa: ARG002
        step: int,  # noqa: ARG002
        meta: Params,  # noqa: ARG002
    ) -> tuple[Params, State]:
        """One step."""
        rates = {name: self.map_lr if name == MAP else self.other_lr for name in update}
        return {name: rates[name] * u for name, u in update.items()}, state


class More(NamedTuple):
    """What is learned together with a map, and moves the features.

    Attributes:
        start: its initial values.
        features_of: (its values, and the map's) -> features of the support set [S, D].
        lr: its learning rate.
    """

    start: Params
    features_of: Callable[[Params], Tensor]
    lr: float


@dataclass(frozen=True)
class FeatureMap:
    """How a task's map is learned; each field is a key of ``algorithm`` in a config.

    Attributes:
        scale: factor of the cosines.
        eval_inner_steps: steps on a task's map.
        map_lr: learning rate of the map.
    """

    scale: PositiveFloat = 10.0
    eval_inner_steps: NonNegativeInt = 40
    map_lr: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm")

    def learn(
        self,
        loss: Loss,
        features: Tensor,
        labels: Tensor,
        stage: Stage,
        more: More | None = None,
    ) -> dict[str, Any]:
        """``iterate``, all that was learned, and ``means`` [W, D] of the mapped features.

        Args:
            loss: of the support set.
            features: of the support set [S, D].
            labels: of the support set [S].
            stage: of the task; may say other steps.
            more: what is learned with the map; None: nothing.
        """
        features_of = (lambda _: features) if more is None else more.features_of
        others, other_lr = ({}, 0.0) if more is None else (more.start, more.lr)

        def objective(iterate: Params, _: int) -> Tensor:
            mapped = features_of(iterate) @ iterate[MAP].T
            return loss(self._logits(mapped, class_means(mapped, labels, stage.ways)), labels)

        def finish(iterate: Params, _: int) -> dict[str, Any]:
            mapped = features_of(iterate) @ iterate[MAP].T
            return {"iterate": iterate, "means": class_means(mapped, labels, stage.ways)}

        identity = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        steps = self.eval_inner_steps if stage.inner_steps is None else stage.inner_steps
        # Not `solve`: evaluation would predict after each step, at ten times the cost of the steps.
        found: Any = stop_gradient(
            InnerProblem(
                objective=objective,
                start={MAP: identity, **others},
                optimizer=Chain((Adadelta(), Rates(self.map_lr, other_lr)), {}),
                num_steps=steps,
                finish=finish,
                depends_on_meta=True,
            )
        )
        return dict(found)

    def predict(self, features: Tensor, mapping: Tensor, means: Tensor) -> Tensor:
        """Features [N, D], the map [D, D] and the class means [W, D] to logits [N, W]."""
        return self._logits(features @ mapping.T, means)

    def _logits(self, mapped: Tensor, means: Tensor) -> Tensor:
        return self.scale * cosines(mapped, means)
