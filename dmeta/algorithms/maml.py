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
from typing import Literal

import torch
from torch import Tensor

from dmeta.bilevel.estimators import Loss
from dmeta.bilevel.inner import InnerAdam, InnerOptimizer, InnerProblem, InnerSGD
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Params
from dmeta.models.network import Network


@dataclass(frozen=True)
class Maml:
    """Adapts every weight of the network.

    Attributes:
        network: the model.
        loss: support and query loss.
        inner_lr: inner step size.
        inner_steps: inner steps in training (0: joint pre-training).
        eval_inner_steps: inner steps at evaluation.
        inner_optimizer: ``sgd``, or ``adam`` with beta1 = 0 as in Reptile.
        inner_batch_size: support examples per inner step in training; None takes all of them.
        eval_inner_batch_size: the same at evaluation.
    """

    network: Network
    loss: Loss
    inner_lr: float = 0.01
    inner_steps: int = 1
    eval_inner_steps: int = 10
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    inner_batch_size: int | None = None
    eval_inner_batch_size: int | None = None

    def __post_init__(self) -> None:
        """Refuses impossible settings."""
        if not self.inner_lr > 0:
            raise ValueError(f"algorithm.inner_lr must be > 0, got {self.inner_lr}; raise it")
        for key in ("inner_steps", "eval_inner_steps"):
            if getattr(self, key) < 0:
                raise ValueError(
                    f"algorithm.{key} must be >= 0, got {getattr(self, key)}; raise it"
                )
        for key in ("inner_batch_size", "eval_inner_batch_size"):
            size = getattr(self, key)
            if size is not None and size < 1:
                raise ValueError(f"algorithm.{key} must be >= 1 or null, got {size}; raise it")

    def init_meta_params(self) -> Params:
        """The network's initial weights."""
        return self.network.init_params()

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, *, training: bool
    ) -> Adapted:
        """Weights after the inner steps: name -> tensor, the names of `meta_params`."""
        batch_size = self.inner_batch_size if training else self.eval_inner_batch_size

        def objective(weights: Params, step: int) -> Tensor:
            x, y = _mini_batch(support, batch_size, step)
            return self.loss(self.network.apply(dict(weights), x), y)

        return solve(
            InnerProblem(
                objective=objective,
                start=meta_params,
                optimizer=self._optimizer(),
                num_steps=self.inner_steps if training else self.eval_inner_steps,
                finish=lambda weights: weights,
            )
        )

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """The network at the adapted weights."""
        return self.network.apply(adapted, x)

    def _optimizer(self) -> InnerOptimizer:
        return (
            InnerAdam(self.inner_lr) if self.inner_optimizer == "adam" else InnerSGD(self.inner_lr)
        )


def _mini_batch(support: Examples, size: int | None, step: int) -> Examples:
    """Rows step*size .. step*size + size - 1 of the support set, around its end if need be."""
    num_rows = support.x.shape[0]
    if size is None or size >= num_rows:
        return support
    rows = torch.arange(step * size, (step + 1) * size, device=support.x.device) % num_rows
    return Examples(support.x[rows], support.y[rows])
