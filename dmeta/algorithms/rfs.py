"""RFS: logistic regression on the features of a pre-trained network.

Tian, Wang, Krishnan, Tenenbaum & Isola 2020, "Rethinking Few-Shot Image Classification: a Good
Embedding Is All You Need?" (arXiv:2003.11539), section 3. In training, f and a layer of all
training classes learn from mini-batches. For a task, with features z = f(x) / |f(x)|,

    minimise over V, b    1/2 |V|^2 + C sum over the support set of L(softmax(V z + b), y)

with L the cross-entropy: what scikit-learn's ``LogisticRegression(C=1)`` computes, which the
authors use. Here it is solved by a fixed number of steps of Böhning 1992 ("Multinomial logistic
regression algorithm"): its bound on the Hessian, 1/2 (I - 1 1^T / W), does not depend on V and b,
so one matrix of the support set is inverted and the steps are products with it. With
V = A^T Z for the features Z [S, D], K = Z Z^T, E = softmax - one-hot labels:

    [ I + C/2 K   1 ] [ dA       ]     [ C E + A ]
    [ 1^T         0 ] [ C/2 db   ] = - [ 0       ]

Every step lowers the objective. With unit-length features and C = 1 the default number of steps
reaches the minimum to about 1e-6 (tests/peers).

Differs from the paper: no self-distillation.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.base_classes import base_classifier, with_base_classifier
from dmeta.algorithms.embeddings import embed_examples, one_hot, unit_rows
from dmeta.algorithms.linear_learners import add_to_diagonal, solve_linear
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields


@dataclass(frozen=True)
class RFS:
    """Logistic regression on the features of a network trained on all training classes.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: of the mini-batches in training.
        input_shape: of one example.
        num_base_classes: classes of the training split.
        inverse_regularization: C, the weight of the losses against the squared weights.
        normalize_features: whether features are brought to length 1.
        solver_steps: steps of the solver.
        init_seed: of the initial layer of the training classes.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    num_base_classes: PositiveInt
    inverse_regularization: PositiveFloat = 1.0
    normalize_features: bool = True
    solver_steps: PositiveInt = 200
    init_seed: int = 0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    trains_on_batches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)

    def init_meta_params(self) -> Params:
        """The network's initial weights, and the layer of the training classes."""
        return with_base_classifier(
            self.network, self.input_shape, self.num_base_classes, self.init_seed
        )

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """``regression``, in addition to the ``weights``; in training the layer instead."""
        if stage.training:
            return {"weights": meta_params, **base_classifier(meta_params)}
        z = self._features(meta_params, support.x)
        labels = one_hot(support.y, stage.ways, z)
        fitted = logistic_regression(z, labels, self.inverse_regularization, self.solver_steps)
        return {"weights": meta_params, "regression": fitted}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W], or those of the training classes in training."""
        if "regression" in adapted:
            fitted: LogisticRegression = adapted["regression"]
            return F.linear(self._features(adapted["weights"], x), fitted.weight, fitted.bias)
        embedded = embed_examples(self.network, adapted["weights"], x)
        return F.linear(embedded, adapted["weight"], adapted["bias"])

    def _features(self, meta_params: Params, x: Tensor) -> Tensor:
        embedded = embed_examples(self.network, meta_params, x)
        return unit_rows(embedded) if self.normalize_features else embedded


class LogisticRegression(NamedTuple):
    """V [W, D] and b [W]."""

    weight: Tensor
    bias: Tensor


def logistic_regression(z: Tensor, labels: Tensor, c: float, num_steps: int) -> LogisticRegression:
    """The minimum of the objective above.

    Args:
        z: features [S, D].
        labels: one-hot [S, W].
        c: C.
        num_steps: of the solver.
    """
    rows = len(labels)
    kernel = z @ z.T
    ones = torch.ones_like(z[:, :1])
    upper = torch.cat([add_to_diagonal(c / 2 * kernel, 1.0), ones], 1)
    lower = torch.cat([ones.T, torch.zeros_like(ones[:1])], 1)
    identity = torch.eye(rows + 1, dtype=z.dtype, device=z.device)
    inverse = solve_linear(torch.cat([upper, lower]), identity)[:, :rows]  # [S + 1, S]
    dual, bias = torch.zeros_like(labels), torch.zeros_like(labels[0])
    for _ in range(num_steps):
        errors = (kernel @ dual + bias).softmax(1) - labels
        step = inverse @ (c * errors + dual)
        dual, bias = dual - step[:rows], bias - 2 / c * step[rows]
    return LogisticRegression(dual.T @ z, bias)
