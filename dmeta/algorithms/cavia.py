"""CAVIA: adapt a few context parameters, leave the network to the outer loop.

Zintgraf, Shiarlis, Kurin, Hofmann & Whiteson 2019, "Fast Context Adaptation via Meta-Learning"
(arXiv:1810.03642), section 3.1, eq. 4 and 5. The network f(x; phi, theta) takes context parameters
phi in addition to its input; every task starts from phi = 0:

    phi_{k+1} = phi_k - inner_lr * grad_phi L_support(phi_k, theta),   phi_0 = 0
    meta-loss(theta) = L_query(phi_K, theta)

The network is any with parameters called ``context``: ``model.context=5`` gives `mlp` five that are
joined to the input (section 4.1), and `conv4` five that scale and shift channels (section 4.2).

Differs from the authors' code (lmzintgraf/cavia): for regression that clips each element of each
task's meta-gradient to +-10 before they are averaged; here ``outer.clip_value`` bounds the mean, as
their code for classification does. On the 10-shot sinusoid 0.5% of the tasks exceed the bound, and
4,000 outer steps end at an MSE of 0.236 without it and 0.228 with it, 0.026 either way
(docs/results.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dmeta.algorithms.inner_loop import InnerLoop, network_params
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Loss, Outcome, Params, Stage
from dmeta.models.context import CONTEXT
from dmeta.models.network import Network


@dataclass(frozen=True)
class Cavia:
    """Adapts the network's context parameters, from zero.

    Attributes:
        network: the model; one or more of its parameters are called ``context``.
        loss: support and query loss.
        inner: the inner loop; it moves the context alone.
    """

    network: Network
    loss: Loss
    inner: InnerLoop = InnerLoop(inner_lr=1.0)

    def __post_init__(self) -> None:
        """Refuses a network without context, and an inner loop that moves something else."""
        if not self._contexts:
            raise ValueError(
                "algorithm=cavia must have a model with a parameter called 'context', got "
                f"{', '.join(self.network.names)}; set model.context to how many there are "
                "(model.context=5), or give your own model such a parameter "
                "(dmeta.models.context has layers with one)"
            )
        if self.inner.adapt != "all":
            raise ValueError(
                "algorithm.adapt must be all for algorithm=cavia (all of the context), got "
                f"{self.inner.adapt}; remove it"
            )

    @property
    def _contexts(self) -> tuple[str, ...]:
        return tuple(n for n in self.network.names if n.rpartition(".")[2] == CONTEXT)

    def init_meta_params(self) -> Params:
        """The network's initial weights but for the context, and what the inner loop learns."""
        weights = self.network.init_params()
        start = {name: weights.pop(name) for name in self._contexts}
        return weights | self.inner.init_meta_params(start)

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
        """The network's weights with the task's context: name -> tensor."""
        weights = network_params(meta_params)
        like = next(iter(weights.values()))

        def objective(context: Params, examples: Examples, _: int) -> Tensor:
            return self.loss(self.network.apply({**weights, **context}, examples.x), examples.y)

        return solve(
            self.inner.problem(
                objective=objective,
                start={n: like.new_zeros(self.network.shape_of(n)) for n in self._contexts},
                meta_params=meta_params,
                support=support,
                stage=stage,
                finish=lambda context, _: {**weights, **context},
                depends_on_meta=True,
            )
        )

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """The network with the adapted context."""
        return self.network.apply(network_params(adapted), x)
