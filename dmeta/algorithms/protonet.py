"""Prototypical networks: classify by the nearest class mean in a learned embedding.

Snell, Swersky & Zemel 2017, "Prototypical Networks for Few-shot Learning" (arXiv:1703.05175),
eq. 1 and 2, squared Euclidean distance:

    c_w = mean of f(x) over the support examples of class w,   logits_w(x) = -|f(x) - c_w|^2

There is no inner loop: to adapt is to compute the means.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.models.network import Network


@dataclass(frozen=True)
class ProtoNet:
    """Class means in the network's embedding.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: query loss on the logits.
    """

    network: Network
    loss: Loss

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def init_meta_params(self) -> Params:
        """The network's initial weights."""
        return self.network.init_params()

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """``prototypes`` [W, D] in addition to the ``weights`` of the embedding.

        A class without support examples has its prototype at 0.
        """
        embedded = self.network.apply(dict(meta_params), support.x).flatten(1)
        return {
            "weights": meta_params,
            "prototypes": class_means(embedded, support.y, stage.ways),
        }

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        embedded = self.network.apply(dict(adapted["weights"]), x).flatten(1)
        prototypes: Tensor = adapted["prototypes"]
        return -(embedded[:, None] - prototypes).square().sum(-1)


def class_means(embedded: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Mean of the rows of each class: [S, D] and [S] in 0..W-1 to [W, D]; 0 for an empty class."""
    # Not F.one_hot, which looks at the labels' values under vmap over vjp.
    classes = torch.arange(ways, device=labels.device)
    members = (labels[:, None] == classes).to(embedded.dtype)
    return (members.T @ embedded) / members.sum(0).clamp(min=1)[:, None]
