"""What methods share that are trained to tell all classes of the training split apart.

Training is on mini-batches (`dmeta.algorithms.algorithm.trains_on_batches`): a linear layer on the
embedding f, with one output for each of the C training classes (the base classes), and the loss

    L(softmax(W f(x) + b), y)        of all examples of a mini-batch

The layer is left behind when a task is learnt: each method says what it does with f then.

Letters: C base classes, D dimensions of the embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dmeta.algorithms.embeddings import num_features, some_weight
from dmeta.bilevel.types import Params
from dmeta.models.network import Network

WEIGHT, BIAS = "base_classes/weight", "base_classes/bias"
"""Names of W [C, D] and b [C]."""


def init_base_classifier(
    network: Network, input_shape: tuple[int, ...], num_base_classes: int, seed: int
) -> dict[str, Tensor]:
    """W and b as `torch.nn.Linear` draws them: uniform up to 1 / sqrt(D).

    Args:
        network: the embedding.
        input_shape: of one example.
        num_base_classes: C.
        seed: of the draw.
    """
    width, like = num_features(network, input_shape), some_weight(network.init_params())
    generator, bound = torch.Generator().manual_seed(seed), 1 / math.sqrt(width)
    shapes = {WEIGHT: (num_base_classes, width), BIAS: (num_base_classes,)}
    return {
        name: torch.empty(shape).uniform_(-bound, bound, generator=generator).to(like)
        for name, shape in shapes.items()
    }


def base_classifier(meta_params: Params) -> dict[str, Tensor]:
    """``weight`` and ``bias``: W and b, as a task's own layer is called."""
    return {"weight": meta_params[WEIGHT], "bias": meta_params[BIAS]}
