"""Prototypical networks: classify by the nearest class mean in a learned embedding.

Snell, Swersky & Zemel 2017, "Prototypical Networks for Few-shot Learning" (arXiv:1703.05175),
eq. 1 and 2, squared Euclidean distance:

    c_w = mean of f(x) over the support examples of class w,   logits_w(x) = -scale |f(x) - c_w|^2

or, with ``algorithm.distance=cosine``, logits_w(x) = scale cos(f(x), c_w). There is no inner loop:
to adapt is to compute the means.

Differs from the paper: it has no scale, which is 1 unless it is set.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat
from torch import Tensor

from dmeta.algorithms.embeddings import (
    class_means,
    cosines,
    embed_examples,
    some_weight,
    squared_distances,
)
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields

SCALE = "protonet/scale"
"""Name of the learned scale."""


@dataclass(frozen=True)
class ProtoNet:
    """Class means in the network's embedding.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: query loss on the logits.
        distance: ``euclidean`` (squared) or ``cosine``, between an example and a class mean.
        scale: factor of the logits; the initial value of a learned scale.
        learn_scale: meta-learn the scale.
    """

    network: Network
    loss: Loss
    distance: Literal["euclidean", "cosine"] = "euclidean"
    scale: PositiveFloat = 1.0
    learn_scale: bool = False

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)

    def init_meta_params(self) -> Params:
        """The network's initial weights, and the scale [] if it is learned."""
        weights = self.network.init_params()
        if not self.learn_scale:
            return weights
        like = some_weight(weights)
        return {**weights, SCALE: like.new_full((), self.scale)}

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """``prototypes`` [W, D] in addition to the ``weights`` of the embedding and the scale.

        A class without support examples has its prototype at 0.
        """
        embedded = embed_examples(self.network, meta_params, support.x)
        return {
            "weights": meta_params,
            "prototypes": class_means(embedded, support.y, stage.ways),
        }

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        embedded = embed_examples(self.network, adapted["weights"], x)
        prototypes: Tensor = adapted["prototypes"]
        if self.distance == "cosine":
            similarity = cosines(embedded, prototypes)
        else:
            similarity = -squared_distances(embedded, prototypes)
        scale = adapted["weights"][SCALE] if self.learn_scale else self.scale
        logits: Tensor = scale * similarity
        return logits
