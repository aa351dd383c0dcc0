"""ANIL and its opposite: MAML whose inner loop moves one part of the network.

Raghu, Raghu, Bengio & Vinyals 2020, "Rapid Learning or Feature Reuse? Towards Understanding the
Effectiveness of MAML" (arXiv:1909.09157), section 4: almost no inner loop. The body b is learned by
the outer loop alone, the inner loop adapts the head h:

    h_{k+1} = h_k - inner_lr * grad_h L_support(b, h_k),   adapted = (b, h_K)

Oh, Yoo, Kim & Yun 2021, "BOIL: Towards Representation Change for Few-shot Learning"
(arXiv:2008.08882), section 3, eq. 3: the head is left as it is and the body adapts.
"""

from __future__ import annotations

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.types import Loss
from dmeta.models.network import Network


def anil(network: Network, loss: Loss, inner: InnerLoop = InnerLoop(adapt="head")) -> Maml:
    """MAML that adapts the head (or whatever `inner.adapt` names)."""
    return Maml(network, loss, inner)


def body_only(network: Network, loss: Loss, inner: InnerLoop = InnerLoop(adapt="body")) -> Maml:
    """MAML that adapts everything but the head."""
    return Maml(network, loss, inner)
