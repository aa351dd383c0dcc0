"""Siamese networks: the class whose examples are most probably of the same class.

Koch, Zemel & Salakhutdinov 2015, "Siamese Neural Networks for One-shot Image Recognition" (ICML
Deep Learning Workshop). Of two examples with embeddings f,

    p(a, b) = sigmoid(sum_d w_d |f_d(a) - f_d(b)| + b_0)

is the probability that they are of the same class; w and b_0 are learned with the embedding. With
p_w(x) the mean of p(x, x_i) over the support examples of class w, the logits are the log odds
log(p_w / (1 - p_w)), and the loss is that of N x W decisions whether a query and a class belong
together: binary cross-entropy with ``loss=cross_entropy``. With one shot these are all pairs of a
query and a support example. There is no inner loop.

Differs from the paper: pairs are those of a task, so that one in W is of the same class, where the
paper draws pairs from all training examples. With several shots the loss is of the mean p_w. The
network, its initial weights and its regularisation are those of the run; w starts at -1 / sqrt(D),
so that close examples are the same class from the beginning.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.embeddings import (
    EMPTY,
    class_log_sums,
    embed_examples,
    num_features,
    one_hot,
    some_weight,
)
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.models.network import Network

WEIGHT, BIAS = "siamese/weight", "siamese/bias"
"""Names of w [D] and b_0 []."""


@dataclass(frozen=True)
class PairLoss:
    """A classification loss on every pair of an example and a class: [N, W] log odds, [N] labels.

    Attributes:
        loss: of the two logits [N W, 2] that they do not belong together (0) and that they do.
    """

    loss: Loss

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean over all pairs: []."""
        together = one_hot(target, prediction.shape[1], target).flatten()
        logits = torch.stack([torch.zeros_like(prediction), prediction], dim=-1)
        return self.loss(logits.flatten(0, 1), together)


@dataclass(frozen=True)
class Siamese:
    """Weighted L1 distances in the network's embedding, each a decision of its own.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: of a decision between two classes; it is kept as a `PairLoss`.
        input_shape: of one example.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Apply the loss to pairs."""
        if not isinstance(self.loss, PairLoss):
            object.__setattr__(self, "loss", PairLoss(self.loss))

    def init_meta_params(self) -> Params:
        """The network's initial weights, w [D] and b_0 []."""
        weights = self.network.init_params()
        like = some_weight(weights)
        width = num_features(self.network, self.input_shape)
        return {
            **weights,
            WEIGHT: like.new_full((width,), -(width**-0.5)),
            BIAS: like.new_zeros(()),
        }

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """``embedded`` [S, D] and ``members`` [S, W], in addition to the ``weights``."""
        embedded = embed_examples(self.network, meta_params, support.x)
        members = one_hot(support.y, stage.ways, embedded)
        return {"weights": meta_params, "embedded": embedded, "members": members}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> log odds [N, W], about -1e9 for a class without examples."""
        weights: Params = adapted["weights"]
        members: Tensor = adapted["members"]
        apart = (embed_examples(self.network, weights, x)[:, None] - adapted["embedded"]).abs()
        pairs = apart @ weights[WEIGHT] + weights[BIAS]
        # Means over the class: the number of its examples cancels.
        same = class_log_sums(F.logsigmoid(pairs), members)
        other = class_log_sums(F.logsigmoid(-pairs), members)
        return same - other + EMPTY * (members.sum(0) == 0)
