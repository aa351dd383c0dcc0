"""LR-D2: logistic regression in a learned embedding, by a few Newton steps.

Bertinetto, Henriques, Torr & Vedaldi 2019, "Meta-learning with differentiable closed-form solvers"
(arXiv:1805.08136): iteratively reweighted least squares. For the features of the
support set with a 1 appended, Z [S, D + 1], and labels y in {0, 1}, v = Z' alpha starts at 0, and
each step is

    t = Z Z' alpha,   mu = sigmoid(t),   s = mu (1 - mu)
    alpha <- (Z Z' + lambda diag(s)^-1)^-1 (t + (y - mu) / s)
           = alpha - (diag(s) Z Z' + lambda I)^-1 (mu - y + lambda alpha)

the Newton step of the logistic losses' sum + lambda / 2 |v|^2 in Woodbury's form; the second line,
which is computed, divides by no s. The meta-gradient goes through the steps. The embedding and
log(lambda) are meta-learned.

The regression is binary. As in the authors' code (github.com/bertinetto/r2d2), a task of more
ways is W regressions, each of one class against the rest, whose scores z v_w are the logits. Of two
ways, where the two scores differ in sign alone, the logits are half of them, so that their softmax
is the sigmoid of the regression.

Differs from that code: lambda is learned unless ``learn_lambda=False``, and stays positive because
its logarithm is the parameter.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dmeta.algorithms.embeddings import embed_examples, one_hot, some_weight
from dmeta.algorithms.linear_learners import add_to_diagonal, solve_linear, with_ones
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields

LOG_LAMBDA = "lrd2/log_lambda"
"""Name of the learned logarithm of lambda."""


@dataclass(frozen=True)
class LRD2:
    """Logistic regression from the network's embedding to each class against the rest.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: query loss on the logits.
        regularization: lambda, the weight of the squared weights, at first.
        newton_steps: steps from weights of 0.
        learn_lambda: whether lambda is meta-learned; else it stays `regularization`.
    """

    network: Network
    loss: Loss
    regularization: PositiveFloat = 1.0
    newton_steps: PositiveInt = 10
    learn_lambda: bool = True

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)

    def init_meta_params(self) -> Params:
        """The network's initial weights and, if it is learned, log(lambda) []."""
        weights = self.network.init_params()
        if not self.learn_lambda:
            return weights
        like = some_weight(weights)
        return {**weights, LOG_LAMBDA: like.new_tensor(math.log(self.regularization))}

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """``classifier`` [D + 1, W] in addition to the ``params``."""
        z = with_ones(embed_examples(self.network, meta_params, support.x))
        members = one_hot(support.y, stage.ways, z)
        strength: Tensor | float = self.regularization
        if self.learn_lambda:
            strength = meta_params[LOG_LAMBDA].exp()
        weights = logistic_weights(z, members, strength, self.newton_steps)
        return {"params": meta_params, "classifier": weights / 2 if stage.ways == 2 else weights}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        logits: Tensor = (
            with_ones(embed_examples(self.network, adapted["params"], x)) @ adapted["classifier"]
        )
        return logits


def logistic_weights(
    z: Tensor, members: Tensor, strength: Tensor | float, num_steps: int
) -> Tensor:
    """V [D, W] of W regressions, of inputs z [S, D] and labels [S, W] of 0 and 1, as above."""
    gram, labels = z @ z.T, members.T
    alpha = torch.zeros_like(labels)
    for _ in range(num_steps):
        mean = torch.sigmoid(alpha @ gram)
        spread = mean * (1 - mean)
        newton = add_to_diagonal(spread[:, :, None] * gram, strength)
        residual = mean - labels + strength * alpha
        alpha = alpha - solve_linear(newton, residual[:, :, None])[:, :, 0]
    return z.T @ alpha.T
