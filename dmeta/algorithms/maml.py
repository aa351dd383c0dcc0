"""MAML: learn initial weights from which a few gradient steps learn a task.

Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks"
(arXiv:1703.03400), algorithm 1. With ``gradient=first_order`` this is FOMAML (section 5.2), with
``gradient=displacement`` and the inner Adam it is Reptile (Nichol, Achiam & Schulman 2018,
arXiv:1803.02999, algorithm 1), with no inner steps it is joint pre-training: the meta-loss is then
the plain loss over all tasks.

    w_0 = theta,   w_{k+1} = w_k - inner_lr * grad L_support(w_k),   theta' = w_K
    meta-loss(theta) = L_query(theta')

Differs from the papers' code: Reptile's inner Adam hands its second moments from task to task, one
after the other, so that a result would depend on which worker drew which task; here
(``carry_moments``) all tasks of a step start from the same moments, and these are then averaged and
moved as the weights are. Mini-batches are consecutive slices of the support set, whose order is
random, and a second pass takes them in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dmeta.algorithms.inner_loop import InnerLoop, network_params
from dmeta.bilevel.estimators import Loss
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Outcome, Params, Stage
from dmeta.models.network import Network


@dataclass(frozen=True)
class Maml:
    """Adapts the network's weights, or those of them that the inner loop moves.

    Attributes:
        network: the model.
        loss: support and query loss.
        inner: the inner loop.
    """

    network: Network
    loss: Loss
    inner: InnerLoop = InnerLoop()

    def __post_init__(self) -> None:
        """Refuses names that the network does not have."""
        self.inner.moved(self.network)

    def init_meta_params(self) -> Params:
        """The network's initial weights, and what the inner loop itself learns."""
        weights = self.network.init_params()
        start = {name: weights[name] for name in self.inner.moved(self.network)}
        return weights | self.inner.init_meta_params(start)

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
        """All weights (and carried moments) after the inner steps: name -> tensor."""
        weights = network_params(meta_params)
        start = {name: weights[name] for name in self.inner.moved(self.network)}

        def objective(moved: Params, examples: Examples, _: int) -> Tensor:
            return self.loss(self.network.apply({**weights, **moved}, examples.x), examples.y)

        return solve(
            self.inner.problem(
                objective=objective,
                start=start,
                meta_params=meta_params,
                support=support,
                stage=stage,
                finish=lambda moved, _: {**weights, **moved},
                depends_on_meta=len(start) < len(weights),
            )
        )

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """The network at the adapted weights."""
        return self.network.apply(network_params(adapted), x)
