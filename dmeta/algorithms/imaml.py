"""iMAML: initial weights as the centre of a proximal inner problem.

Rajeswaran, Finn, Kakade & Levine 2019, "Meta-Learning with Implicit Gradients" (arXiv:1909.04630),
eq. 3 to 6. With lambda = `inner_proximal`,

    theta' = argmin_w G(w, theta),   G = L_support(w) + lambda/2 |w - theta|^2,
    dL_query(theta')/dtheta = (I + H/lambda)^-1 dL_query/dtheta',   H = d2 L_support/dw2 at theta',

which is the implicit meta-gradient of G (``gradient=implicit``): d2G/dw2 = H + lambda I and
d2G/(dtheta dw) = -lambda I. The inner steps only have to come near the minimum.

The authors' code (aravindr93/imaml_dev) does not minimise G: it takes plain steps on L_support,
then, in training alone, one step on the proximal term, and differentiates as if that were the
minimum. ``algorithm.proximal_at=end`` does the same, and so do the presets.
"""

from __future__ import annotations

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.types import Loss
from dmeta.models.network import Network


def imaml(
    network: Network,
    loss: Loss,
    inner: InnerLoop = InnerLoop(
        inner_lr=0.1, inner_steps=16, eval_inner_steps=16, inner_proximal=2.0
    ),
) -> Maml:
    """MAML with a proximal inner problem, to be used with ``gradient=implicit``."""
    return Maml(network, loss, inner)
