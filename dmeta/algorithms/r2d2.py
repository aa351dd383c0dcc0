"""R2-D2: ridge regression in a learned embedding, solved in closed form.

Bertinetto, Henriques, Torr & Vedaldi 2019, "Meta-learning with differentiable closed-form solvers"
(arXiv:1805.08136). For the features of the support set with a 1 appended, Z [S, D + 1],
and its targets Y [S, W] (one-hot labels, or the values of a regression), X = Z / sqrt(S) and
Y' = Y / sqrt(S):

    V = argmin |X V - Y'|^2 + lambda |V|^2
      = X' (X X' + lambda I)^-1 Y'          (Woodbury), if S <= D + 1
      = (X' X + lambda I)^-1 X' Y'          else
    prediction(x) = a z V + b

There is no inner loop: to adapt is to solve for V, and the meta-gradient goes through the solution.
The embedding, a, b and log(lambda) are meta-learned. In a classification a is the temperature of
the softmax (b, the same for all classes, changes nothing there); in a regression a makes up for the
shrinkage of V by lambda, and b is an offset. So `scale` may start anywhere for labels, and is best
near 1 + lambda / |z|^2 for values.

Differs from the authors' code (github.com/bertinetto/r2d2): lambda is learned unless
``learn_lambda=False``, and stays positive because its logarithm is the parameter. There a starts
at 1e-4 for miniImageNet.

Letters: S support examples, N examples to predict, W ways or values, D dimensions of the embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from dmeta.algorithms.embeddings import embed_examples, one_hot, some_weight
from dmeta.algorithms.linear_learners import add_to_diagonal, solve_linear, with_ones
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Loss, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields

SCALE, BIAS, LOG_LAMBDA = "r2d2/scale", "r2d2/bias", "r2d2/log_lambda"


@dataclass(frozen=True)
class R2D2:
    """Ridge regression from the network's embedding to the targets.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: query loss on the predictions.
        regularization: lambda, the weight of the squared weights, at first.
        scale: a, by which the ridge regression's values are multiplied, at first; it is learned.
        learn_lambda: whether lambda is meta-learned; else it stays `regularization`.
    """

    network: Network
    loss: Loss
    regularization: PositiveFloat = 50.0
    scale: PositiveFloat = 10.0
    learn_lambda: bool = True

    embeds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)

    def init_meta_params(self) -> Params:
        """The network's initial weights; a, b and, if it is learned, log(lambda): each []."""
        weights = self.network.init_params()
        like = some_weight(weights)
        added = {SCALE: like.new_tensor(self.scale), BIAS: like.new_zeros(())}
        if self.learn_lambda:
            added[LOG_LAMBDA] = like.new_tensor(math.log(self.regularization))
        return {**weights, **added}

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """``ridge`` [D + 1, W], or [D + 1, *output_shape], in addition to the ``params``."""
        z = with_ones(embed_examples(self.network, meta_params, support.x))
        y = support.y
        if not y.is_floating_point():
            y = one_hot(y, stage.ways, z)
        strength: Tensor | float = self.regularization
        if self.learn_lambda:
            strength = meta_params[LOG_LAMBDA].exp()
        flat = ridge_weights(z, y.reshape(len(y), -1), strength)
        return {"params": meta_params, "ridge": flat.reshape(len(flat), *y.shape[1:])}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W] or values [N, *output_shape]."""
        params = adapted["params"]
        z = with_ones(embed_examples(self.network, params, x))
        values = torch.tensordot(z, adapted["ridge"], dims=1)
        out: Tensor = params[SCALE] * values + params[BIAS]
        return out


def ridge_weights(z: Tensor, y: Tensor, strength: Tensor | float) -> Tensor:
    """V [D, W] of the inputs z [S, D], the targets y [S, W] and lambda, as above."""
    rows, width = z.shape
    scaled_z, scaled_y = z / math.sqrt(rows), y / math.sqrt(rows)
    if rows <= width:
        gram = add_to_diagonal(scaled_z @ scaled_z.T, strength)
        return scaled_z.T @ solve_linear(gram, scaled_y)
    moments = add_to_diagonal(scaled_z.T @ scaled_z, strength)
    return solve_linear(moments, scaled_z.T @ scaled_y)
