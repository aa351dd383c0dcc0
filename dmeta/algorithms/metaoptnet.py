"""MetaOptNet: a support vector machine or ridge regression in a learned embedding.

Lee, Maji, Ravichandran & Soatto 2019, "Meta-Learning with Differentiable Convex Optimization"
(arXiv:1904.03758), section 3. The base learner is a convex problem in its dual variables
alpha [S, W]; of the embedded support set F [S, D], K = F F', and of its labels one-hot, Y [S, W],

    svm    minimise 1/2 tr(alpha' (K + I) alpha) - sum(alpha * Y)
           subject to alpha <= C Y, sum_w alpha_iw = 0          (Crammer & Singer)
    ridge  alpha = 2 (K + lambda I)^-1 Y
    logits(x) = scale f(x) F' alpha

There is no inner loop: to adapt is to solve for alpha, and the meta-gradient goes through the
solution, implicitly for the support vector machine (`dmeta.algorithms.multiclass_svm`). The
embedding and the scale are meta-learned. The I in K + I and the 2 follow the authors' code
(github.com/kjunelee/MetaOptNet).

Differs from that code: ridge regression is solved in closed form; classes may have unequal numbers
of support examples.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dmeta.algorithms.embeddings import embed_examples, one_hot, some_weight
from dmeta.algorithms.linear_learners import add_to_diagonal, solve_linear
from dmeta.algorithms.multiclass_svm import dual_solution
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields, refuse_unread

SCALE = "metaoptnet/scale"
"""Name of the learned scale."""


@dataclass(frozen=True)
class MetaOptNet:
    """A linear classifier of the network's embedding that solves a convex problem.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: query loss on the logits.
        head: the convex problem: ``svm`` or ``ridge``.
        svm_cost: C, by which the dual variables are bounded (only with ``head=svm``).
        solver_steps: steps of the interior-point method (only with ``head=svm``).
        ridge_strength: lambda (only with ``head=ridge``).
        scale: factor of the logits, at first; it is learned.
    """

    network: Network
    loss: Loss
    head: Literal["svm", "ridge"] = "svm"
    svm_cost: PositiveFloat = 0.1
    solver_steps: PositiveInt = 15
    ridge_strength: PositiveFloat = 50.0
    scale: PositiveFloat = 1.0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)
        if self.head == "svm":
            refuse_unread(self, ["ridge_strength"], "algorithm", "algorithm.head=ridge")
        else:
            refuse_unread(self, ["svm_cost", "solver_steps"], "algorithm", "algorithm.head=svm")

    def init_meta_params(self) -> Params:
        """The network's initial weights, and the scale []."""
        weights = self.network.init_params()
        like = some_weight(weights)
        return {**weights, SCALE: like.new_tensor(self.scale)}

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """``classifier`` F' alpha [D, W] in addition to the ``params``."""
        embedded = embed_examples(self.network, meta_params, support.x)
        members = one_hot(support.y, stage.ways, embedded)
        alpha = self._dual(embedded @ embedded.T, members)
        return {"params": meta_params, "classifier": embedded.T @ alpha}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        params = adapted["params"]
        logits: Tensor = params[SCALE] * (
            embed_examples(self.network, params, x) @ adapted["classifier"]
        )
        return logits

    def _dual(self, gram: Tensor, members: Tensor) -> Tensor:
        if self.head == "svm":
            return dual_solution(gram, members, self.svm_cost, self.solver_steps)
        return solve_linear(add_to_diagonal(gram, self.ridge_strength), 2 * members)
