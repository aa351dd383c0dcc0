"""A learned optimiser: the update rule that learns a task is itself learned.

Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent"
(arXiv:1606.04474), eq. 3. An LSTM m with weights phi, applied to every coordinate
(`dmeta.bilevel.transforms.lstm`), takes the gradient and says the step:

    (d_k, s_{k+1}) = m(grad L_support(w_k), s_k; phi),   w_{k+1} = w_k + inner_lr * d_k
    meta-loss(phi) = sum_{k=1..K} L_query(w_k)

What is meta-learned is phi, and with `learn_initial_weights` w_0 too. The paper takes inner
gradients for constants (``gradient=first_order``); for long inner loops it truncates
backpropagation through time (``gradient=truncated gradient.last=0 gradient.window=20``). With
``algorithm.inner_optimizer=lstm`` every other method has the rule, too.

Differs from the paper: the meta-loss is of the query set, as for every few-shot learner here; the
paper's is of the set that is learned from. Initial weights that are not learned are the same for
all tasks of a run, those of its seed; the paper draws new ones for each. (A task is adapted more
than once, by a backward sweep for example, and must then start from the same weights; and what is
learned is used from where it was learned.) They are among the meta-parameters, so that a checkpoint
is complete, as constants: their meta-gradient is 0.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.inner import InnerProblem
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Loss, Outcome, Params, Stage
from dmeta.models.network import Network


@dataclass(frozen=True)
class LearnedOptimizer:
    """MAML's inner problem, walked by a learned rule and judged after every step.

    Attributes:
        network: the model.
        loss: support and query loss.
        inner: the inner loop; its rule is the LSTM.
        learn_initial_weights: whether the initial weights are meta-learned too.
        sum_losses: whether the meta-loss is the sum of the query losses after every inner step,
            not that after the last alone.
    """

    network: Network
    loss: Loss
    inner: InnerLoop = InnerLoop(
        inner_optimizer="lstm", inner_lr=0.1, inner_steps=10, eval_inner_steps=10
    )
    learn_initial_weights: bool = False
    sum_losses: bool = True

    def __post_init__(self) -> None:
        """Refuses an inner loop with another rule, or with other losses."""
        if self.inner.inner_optimizer != "lstm":
            raise ValueError(
                "algorithm.inner_optimizer must be lstm for algorithm=learned_optimizer, got "
                f"{self.inner.inner_optimizer}; remove it or choose algorithm=maml"
            )
        if self.sum_losses and self.inner.multi_step_loss_until:
            raise ValueError(
                "algorithm.multi_step_loss_until must be 0 with algorithm.sum_losses=true, got "
                f"{self.inner.multi_step_loss_until}; set algorithm.sum_losses=false"
            )
        self.inner.moved(self.network)

    @property
    def constants(self) -> frozenset[str]:
        """The meta-parameters that are not learned: the network's, if so chosen."""
        return frozenset() if self.learn_initial_weights else frozenset(self.network.names)

    @property
    def _maml(self) -> Maml:
        return Maml(self.network, self.loss, self.inner)

    def init_meta_params(self) -> Params:
        """The LSTM's weights, and the network's initial weights, learned or not."""
        return self._maml.init_meta_params()

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
        """All weights of the network after the inner steps: name -> tensor."""
        if not self.learn_initial_weights:
            constants = {name: meta_params[name].detach() for name in self.network.names}
            meta_params = {**meta_params, **constants}

        def judged(problem: InnerProblem) -> Adapted | Outcome:
            if not (self.sum_losses and stage.training and problem.num_steps > 0):
                return solve(problem)
            weights = dict.fromkeys(range(1, problem.num_steps + 1), 1.0)
            return solve(dataclasses.replace(problem, loss_weights=weights))

        return self._maml.adapt(meta_params, support, judged, stage)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """The network at the adapted weights."""
        return self._maml.predict(adapted, x)
