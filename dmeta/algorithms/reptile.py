"""Reptile: move the initial weights towards the weights that a task adapts them to.

Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms" (arXiv:1803.02999),
algorithm 1. The inner loop is MAML's, by default with the settings of the authors' code: Adam
without a first moment, on mini-batches of the support set. The estimator
(``gradient=displacement``) is theta - theta': it differentiates nothing.

    w_0 = theta,   w_{k+1} = Adam(w_k, grad L_batch(w_k)),   theta <- theta - lr * (theta - w_K)

Differs from the authors' code: see `dmeta.algorithms.maml` on the inner optimiser's moments and
the order of mini-batches.
"""

from __future__ import annotations

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.types import Loss
from dmeta.models.network import Network


def reptile(
    network: Network,
    loss: Loss,
    inner: InnerLoop = InnerLoop(
        inner_lr=0.001,
        inner_steps=5,
        eval_inner_steps=50,
        inner_optimizer="adam",
        carry_moments=True,
        inner_batch_size=10,
    ),
) -> Maml:
    """MAML with Reptile's inner loop, to be used with ``gradient=displacement``."""
    return Maml(network, loss, inner)
