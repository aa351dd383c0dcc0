"""MAML++: MAML with six changes, each of which can be switched off.

Antoniou, Edwards & Storkey 2019, "How to train your MAML" (arXiv:1810.09502), section 4:

    multi-step loss (MSL)     meta-loss = sum_k v_k L_query(w_k), the weights v of the steps before
                              the last annealed away        algorithm.multi_step_loss_until
    learned rates (LSLR)      one for each tensor and step  algorithm.learn_inner_lr
    batch-norm weights and    one scale and shift for each  algorithm.per_step_norm
    biases (BNWB)             layer and step
    derivative order (DA)     first order at first, then    gradient=annealed,
                              second                        gradient.first_order_until
    cosine schedule (CA)      by epochs of 500 steps        outer.schedule=cosine,
                                                            outer.schedule_every
    ensemble                  of the five models that are   eval.checkpoint=ensemble
                              best on validation tasks

Step k (from 0) sees row k of the per-step scales and shifts, and so does a query that is predicted
after that step, as in the authors' code; further steps see the last row.

The authors' code (github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch) uses second order from the
first step on, clips meta-gradients (to +-10) on miniImageNet alone, and turns Omniglot's characters
in training alone; so do the presets.

Differs from the paper: the statistics of batch-norm are those of the batch at every step. The
paper keeps running averages for each step (BNRS); the authors' code updates them and never reads
them. Scales and shifts start as the network has them and are not moved by the inner loop, as is
their default. The ensemble averages probabilities.
"""

from __future__ import annotations

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.types import Loss
from dmeta.models.network import Network


def maml_pp(
    network: Network,
    loss: Loss,
    inner: InnerLoop = InnerLoop(
        inner_lr=0.1,
        inner_steps=5,
        eval_inner_steps=5,
        learn_inner_lr="per_tensor_and_step",
        multi_step_loss_until=5000,
    ),
    per_step_norm: bool = True,
) -> Maml:
    """MAML with a multi-step loss, rates and batch-norm per step.

    Args:
        network: the model.
        loss: support and query loss.
        inner: the inner loop.
        per_step_norm: learn one scale and shift of every normalisation layer for each inner step.
    """
    return Maml(network, loss, inner, per_step_norm)
