"""Meta-Curvature: learn the initial weights, and matrices that transform every inner gradient.

Park & Oliva 2019, "Meta-Curvature" (arXiv:1902.03356), section 3 and algorithm 1. For each weight
tensor, matrices M along its modes (outputs, inputs, filter positions; the identity at first):

    theta' = theta - inner_lr * M[grad L_support(theta)]
    meta-loss(theta, M) = L_query(theta')

with M[G] = G x_3 M_f x_2 M_i x_1 M_o for a convolution, M_o G M_i^T for a linear layer
(`dmeta.bilevel.transforms.curvature`). It is an option of the inner loop,
``precondition=curvature``, for every method that has one.

Differs from the paper: of its two forms this is the one with a matrix for each mode (MC1), shared
by all inner steps; a bias has a full matrix of its own. The rate is not learned unless
`learn_inner_lr` says so: the matrices can take its part.
"""

from __future__ import annotations

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.types import Loss
from dmeta.models.network import Network


def meta_curvature(
    network: Network, loss: Loss, inner: InnerLoop = InnerLoop(precondition="curvature")
) -> Maml:
    """MAML with learned matrices that transform the inner gradients."""
    return Maml(network, loss, inner)
