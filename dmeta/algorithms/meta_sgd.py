"""Meta-SGD: learn the initial weights and, for every weight, a rate and a direction.

Li, Zhou, Chen & Li 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning"
(arXiv:1707.09835), eq. 3 and algorithm 1, with rates alpha of the weights' shapes:

    theta' = theta - alpha * grad L_support(theta)   (elementwise)
    meta-loss(theta, alpha) = L_query(theta')

Differs from the paper: all rates start equal, at `inner_lr` (the paper draws them from [0.005,
0.1]); any number of inner steps, which share alpha.
"""

from __future__ import annotations

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.types import Loss
from dmeta.models.network import Network


def meta_sgd(
    network: Network, loss: Loss, inner: InnerLoop = InnerLoop(learn_inner_lr="per_element")
) -> Maml:
    """MAML with learned rates, one for every weight."""
    return Maml(network, loss, inner)
