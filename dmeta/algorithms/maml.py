"""MAML: learn initial weights from which a few gradient steps learn a task.

Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks"
(arXiv:1703.03400), algorithm 1. With ``gradient=first_order`` this is FOMAML (section 5.2); with
``gradient=displacement`` and the inner Adam, Reptile (`dmeta.algorithms.reptile`); with no inner
steps, joint pre-training (`dmeta.algorithms.joint`).

    w_0 = theta,   w_{k+1} = w_k - inner_lr * grad L_support(w_k),   theta' = w_K
    meta-loss(theta) = L_query(theta')

Units of `inner_lr`: a loss is the mean over examples. In Finn et al.'s code (cbfinn/maml) that of
a classification task is the sum over its examples, divided by the shots. Inner gradients there are
`ways` times as long, and a published inner rate of 0.4 at 5-way is 2.0 here, 0.1 at 20-way is 2.0,
0.01 at 5-way is 0.05. Outer gradients are ways * queries / shots times as long, which Adam does not
see, but a bound on them does: +-10 on miniImageNet (75 query images) are +-0.133 here.
docs/results.md has what either rate reaches.

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
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Loss, Outcome, Params, Stage
from dmeta.models.network import Network


@dataclass(frozen=True)
class Maml:
    """Adapts the network's weights, or those of them that the inner loop moves.

    Attributes:
        network: the model.
        loss: support and query loss.
        inner: the inner loop.
        per_step_norm: learn one scale and shift of every normalisation layer for each inner step,
            by the outer loop alone (MAML++, see `dmeta.algorithms.maml_pp`).
    """

    network: Network
    loss: Loss
    inner: InnerLoop = InnerLoop()
    per_step_norm: bool = False

    def __post_init__(self) -> None:
        """Refuses names that the network does not have."""
        if not self._moved:
            raise ValueError(
                "algorithm.per_step_norm must leave a parameter to adapt, got algorithm.adapt="
                f"{self.inner.adapt}, which names normalisation layers alone; change it"
            )

    @property
    def _per_step(self) -> frozenset[str]:
        return self.network.norm_names if self.per_step_norm else frozenset()

    @property
    def _moved(self) -> tuple[str, ...]:
        return tuple(n for n in self.inner.moved(self.network) if n not in self._per_step)

    def init_meta_params(self) -> Params:
        """The network's initial weights, and what the inner loop itself learns.

        With `per_step_norm` scales and shifts are [most inner steps, channels].
        """
        weights = self.network.init_params()
        rows = max(1, self.inner.most_inner_steps)
        for name in self._per_step:
            weights[name] = weights[name].expand(rows, *weights[name].shape).clone()
        start = {name: weights[name] for name in self._moved}
        return weights | self.inner.init_meta_params(start)

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
        """All weights (and carried moments) after the inner steps: name -> tensor."""
        weights = network_params(meta_params)
        start = {name: weights[name] for name in self._moved}

        def at(step: int) -> dict[str, Tensor]:
            rows = {n: weights[n][min(step, len(weights[n]) - 1)] for n in self._per_step}
            return {**weights, **rows}

        network, support = self._what_changes(weights, support, stage)

        def objective(moved: Params, examples: Examples, step: int) -> Tensor:
            params = {**at(step), **moved}
            own = {name: params[name] for name in network.names}
            return self.loss(network.apply(own, examples.x), examples.y)

        return solve(
            self.inner.problem(
                objective=objective,
                start=start,
                meta_params=meta_params,
                support=support,
                stage=stage,
                finish=lambda moved, steps: {**at(max(steps - 1, 0)), **moved},
                depends_on_meta=len(start) < len(weights),
            )
        )

    def _what_changes(
        self, weights: Params, support: Examples, stage: Stage
    ) -> tuple[Network, Examples]:
        """The layers from the first one that changes on, and what the others make of the inputs.

        So that these (ANIL's body) are computed once and not in every inner step. With mini-batches
        they are left where they are, because batch statistics are those of a mini-batch.
        """
        parts = self.network.cut_before({*self._moved, *self._per_step})
        if parts is None or self.inner.in_mini_batches(support, stage):
            return self.network, support
        still, rest = parts
        features = still.apply({name: weights[name] for name in still.names}, support.x)
        return rest, Examples(features, support.y)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """The network at the adapted weights."""
        return self.network.apply(network_params(adapted), x)
