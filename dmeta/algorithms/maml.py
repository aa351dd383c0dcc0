"""MAML: learn initial weights from which a few gradient steps learn a task.

Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks"
(arXiv:1703.03400), algorithm 1. With ``gradient=first_order`` this is FOMAML (section 5.2), with
``gradient=displacement`` and the inner Adam it is Reptile (Nichol, Achiam & Schulman 2018,
arXiv:1803.02999, algorithm 1), with no inner steps it is joint pre-training: the meta-loss is then
the plain loss over all tasks.

    w_0 = theta,   w_{k+1} = w_k - inner_lr * grad L_support(w_k),   theta' = w_K
    meta-loss(theta) = L_query(theta')

Differs from the paper: inner Adam starts from zero moments for every task, where Reptile's code
carries them from task to task (a result would then depend on which worker drew which task);
mini-batches are consecutive slices of the support set, whose order is random, and a second pass
takes them in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dmeta.algorithms.inner_loop import RATE, InnerLoop
from dmeta.bilevel.estimators import Loss
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Params, Stage
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
        """The network's initial weights, and the inner rates if they are learned."""
        weights = self.network.init_params()
        start = {name: weights[name] for name in self.inner.moved(self.network)}
        return weights | self.inner.init_rates(start)

    def adapt(self, meta_params: Params, support: Examples, solve: Solver, stage: Stage) -> Adapted:
        """All weights after the inner steps: name -> tensor, the network's names."""
        weights = {name: p for name, p in meta_params.items() if not name.startswith(RATE)}
        start = {name: weights[name] for name in self.inner.moved(self.network)}

        def objective(moved: Params, examples: Examples) -> Tensor:
            return self.loss(self.network.apply({**weights, **moved}, examples.x), examples.y)

        return solve(
            self.inner.problem(
                objective=objective,
                start=start,
                meta_params=meta_params,
                support=support,
                stage=stage,
                finish=lambda moved: {**weights, **moved},
                depends_on_meta=len(start) < len(weights),
            )
        )

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """The network at the adapted weights."""
        return self.network.apply(adapted, x)
