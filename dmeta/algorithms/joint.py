"""Joint pre-training, the classical baseline: train on all tasks at once, fine-tune at evaluation.

Finn et al. 2017 (arXiv:1703.03400), section 5.1. MAML without inner steps in training: the
meta-loss is the plain query loss, whose average over tasks is that of one network for all of them.
"""

from __future__ import annotations

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.types import Loss
from dmeta.models.network import Network


def joint(network: Network, loss: Loss, inner: InnerLoop = InnerLoop(inner_steps=0)) -> Maml:
    """MAML without inner steps in training."""
    return Maml(network, loss, inner)
