"""What methods share that are trained to tell all classes of the training split apart.

Training is on mini-batches (`dmeta.algorithms.algorithm.trains_on_batches`): a linear layer on the
embedding f, with one output for each of the C training classes (the base classes), and the loss

    L(softmax(W f(x) + b), y)        of all examples of a mini-batch

The layer is left behind when a task is learnt: each method says what it does with f then.

Letters: C base classes, D dimensions of the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmeta.algorithms import dense_layers
from dmeta.algorithms.embeddings import num_features, some_weight
from dmeta.bilevel.types import Params
from dmeta.models.network import Network

_LAYER = "base_classes"
WEIGHT, BIAS = _LAYER + dense_layers.WEIGHT, _LAYER + dense_layers.BIAS
"""Names of W [C, D] and b [C]."""


def with_base_classifier(
    network: Network, input_shape: tuple[int, ...], num_base_classes: int, seed: int
) -> dict[str, Tensor]:
    """The network's initial weights, and W and b as `torch.nn.Linear` draws them.

    Args:
        network: the embedding.
        input_shape: of one example.
        num_base_classes: C.
        seed: of the draw of W and b.
    """
    weights = network.init_params()
    shape = (num_base_classes, num_features(network, input_shape))
    generator = torch.Generator().manual_seed(seed)
    return weights | dense_layers.init_layer(_LAYER, shape, generator, some_weight(weights))


def base_classifier(meta_params: Params) -> dict[str, Tensor]:
    """``weight`` and ``bias``: W and b, as a task's own layer is called."""
    return {"weight": meta_params[WEIGHT], "bias": meta_params[BIAS]}
